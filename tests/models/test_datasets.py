from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from experiments.datasets import DataUnavailable, data_dir, idx_dataset, read_idx, sklearn_dataset

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(autouse=True)
def _forget_loaded_data() -> Iterator[None]:
    idx_dataset.cache_clear()
    yield
    idx_dataset.cache_clear()


def idx(array: np.ndarray, kind: int = 0x08) -> bytes:
    header = bytes([0, 0, kind, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def write_set(folder: Path, *, compressed: bool) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in FILES:
        rows = 12 if name.startswith("train") else 5
        array = rng.integers(0, 256, (rows, 4, 4)) if "images" in name else np.arange(rows) % 3
        data = idx(array.astype(np.uint8))
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(data) if compressed else data)


@pytest.mark.parametrize("compressed", [True, False])
def test_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool) -> None:
    monkeypatch.setenv("SUPERPOSED_DATA_DIR", str(tmp_path))
    write_set(tmp_path / "kmnist", compressed=compressed)
    data = idx_dataset("kmnist")
    assert data.train_x.shape == (12, 16)
    assert data.test_x.shape == (5, 16)
    assert data.train_x.dtype == np.float32
    assert 0.9 < float(data.train_x.max()) <= 1.0
    assert data.labels == ("0", "1", "2")
    assert data.train_y.tolist() == [0, 1, 2] * 4


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERPOSED_DATA_DIR", str(tmp_path))
    write_set(tmp_path / "mnist", compressed=True)
    with pytest.raises(DataUnavailable, match="damaged"):
        idx_dataset("mnist")


def test_absent_files_say_which_whence_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERPOSED_DATA_DIR", str(tmp_path))
    with pytest.raises(DataUnavailable) as caught:
        idx_dataset("mnist")
    message = str(caught.value)
    assert "\n" not in message
    for part in (*FILES, "LeCun", str(tmp_path / "mnist"), "SUPERPOSED_DATA_DIR"):
        assert part in message
    monkeypatch.delenv("SUPERPOSED_DATA_DIR")
    assert data_dir() == Path.home() / ".cache" / "superposed"


@pytest.mark.parametrize(
    "data",
    [b"", b"\0\0", b"\1\0\x08\1\0\0\0\1a", b"\0\0\x07\1\0\0\0\1a", b"\0\0\x08\1\0\0\0\2a", b"\0\0\x08\2\0\0\0\1"],
)
def test_other_bytes_are_no_idx_file(data: bytes) -> None:
    with pytest.raises(DataUnavailable):
        read_idx(data)


def test_idx_types() -> None:
    values = np.array([[1.5, -2.0]], dtype=">f4")
    np.testing.assert_array_equal(read_idx(idx(values, 0x0D)), values)


def test_real_mnist_where_it_is_present() -> None:
    try:
        data = idx_dataset("mnist")
    except DataUnavailable as error:
        pytest.skip(error.message)
    assert (data.train_x.shape, data.test_x.shape) == ((60_000, 784), (10_000, 784))
    assert np.bincount(data.test_y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert float(data.train_x.mean()) == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "features", "labels"), [("digits", 64, 10), ("breast_cancer", 30, 2), ("wine", 13, 3), ("iris", 4, 3)]
)
def test_scikit_learns_own(name: str, features: int, labels: int) -> None:
    data = sklearn_dataset(name)
    assert data.features == features
    assert len(data.labels) == labels
    assert set(data.test_y) == set(range(labels))
    np.testing.assert_array_equal(data.test_x, sklearn_dataset(name).test_x)
    assert not np.array_equal(data.test_x, sklearn_dataset(name, seed=1).test_x)


def test_permutations() -> None:
    data = sklearn_dataset("digits")
    assert data.permuted(0) is data
    one, two = data.permuted(1), data.permuted(2)
    np.testing.assert_array_equal(np.sort(one.test_x, 1), np.sort(data.test_x, 1))
    assert not np.array_equal(one.test_x, two.test_x)
    np.testing.assert_array_equal(one.train_y, data.train_y)
    with pytest.raises(DataUnavailable, match="digits"):
        sklearn_dataset("cifar")
