"""Real data sets: scikit-learn's small ones, and IDX files (MNIST, FashionMNIST, KMNIST and the like).

IDX files are looked for in `$SUPERPOSED_DATA_DIR/<name>/` (default: `~/.cache/superposed/<name>/`),
plain or gzip-compressed. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from superposed.errors import ConfigError

__all__ = ["DATA_DIR_VARIABLE", "DataUnavailable", "Dataset", "data_dir", "idx_dataset", "read_idx", "sklearn_dataset"]

DATA_DIR_VARIABLE = "SUPERPOSED_DATA_DIR"

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_SOURCES = {
    "mnist": "the MNIST database of LeCun, Cortes and Burges",
    "fashion-mnist": "github.com/zalandoresearch/fashion-mnist",
    "kmnist": "the Kuzushiji-MNIST data set (CODH)",
}
# SHA-256 of the uncompressed files: the gzip wrapping differs between publishers.
_CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }
}


class DataUnavailable(ConfigError, code="DataUnavailable"):
    """The files of a data set are not where they are looked for."""


@dataclass(frozen=True)
class Dataset:
    """Rows to learn from and rows to measure on.

    Args:
        name: Which data set.
        train_x: (N, features) float32.
        train_y: (N,) int64 class indexes.
        test_x: (M, features) float32.
        test_y: (M,) int64.
        labels: Names of the classes, in index order.
    """

    name: str
    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]
    labels: tuple[str, ...]

    @property
    def features(self) -> int:
        """Numbers a row."""
        return int(self.train_x.shape[1])

    def named(self, classes: NDArray[np.int64]) -> NDArray[Any]:
        """Return the names (n,) of class indexes (n,)."""
        return np.asarray(self.labels)[classes]

    def permuted(self, seed: int) -> Dataset:
        """Return the same data with its features in another order; seed 0 is the order as it is."""
        if seed == 0:
            return self
        order = np.random.default_rng(seed).permutation(self.features)
        name = f"{self.name}-permuted-{seed}"
        return replace(self, name=name, train_x=self.train_x[:, order], test_x=self.test_x[:, order])


def data_dir() -> Path:
    """Return the folder of the data sets: `$SUPERPOSED_DATA_DIR`, or the user's cache."""
    configured = os.environ.get(DATA_DIR_VARIABLE)
    return Path(configured) if configured else Path.home() / ".cache" / "superposed"


def read_idx(data: bytes) -> NDArray[Any]:
    """Read one uncompressed IDX file.

    Raises:
        DataUnavailable: The header is not IDX, or the length does not match it.
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        raise DataUnavailable("not an IDX file", expected="two zero bytes and a type", received=data[:4])
    dtype, dimensions = np.dtype(_IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(data[4:start], dtype=">u4").astype(int).tolist())
    expected = int(np.prod(shape)) * dtype.itemsize
    if len(shape) != dimensions or len(data) - start != expected:
        raise DataUnavailable(
            "an IDX file of the wrong length", expected=f"{expected} bytes of data", received=len(data) - start
        )
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(shape)


def _idx_bytes(name: str, file: str) -> bytes:
    folder = data_dir() / name
    for path in (folder / file, folder / f"{file}.gz"):
        if path.exists():
            raw = path.read_bytes()
            return gzip.decompress(raw) if path.suffix == ".gz" else raw
    raise DataUnavailable(
        f"data set {name} is not here: put {', '.join(_IDX_FILES)} (plain or .gz), "
        f"from {_SOURCES.get(name, 'its publisher')}, in {folder}, or set {DATA_DIR_VARIABLE}",
        received=f"no {file}",
    )


@lru_cache(maxsize=4)
def idx_dataset(name: str = "mnist") -> Dataset:
    """Load a data set of images in IDX files; pixels are scaled to 0 ... 1.

    Raises:
        DataUnavailable: Which files are missing, where they come from and where they go; or a file whose
            checksum is not the published one.
    """
    arrays = []
    for file in _IDX_FILES:
        raw = _idx_bytes(name, file)
        known = _CHECKSUMS.get(name, {}).get(file)
        if known is not None and hashlib.sha256(raw).hexdigest() != known:
            raise DataUnavailable(f"{file} of {name} is damaged", expected=f"SHA-256 {known}", received="another")
        arrays.append(read_idx(raw))
    train_x, train_y, test_x, test_y = arrays
    return Dataset(
        name,
        _pixels(train_x),
        train_y.astype(np.int64),
        _pixels(test_x),
        test_y.astype(np.int64),
        tuple(str(label) for label in range(int(train_y.max()) + 1)),
    )


def _pixels(images: NDArray[Any]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def sklearn_dataset(name: str, *, test_share: float = 0.25, seed: int = 0) -> Dataset:
    """Return one of scikit-learn's bundled data sets: digits, breast_cancer, wine, iris.

    The split is stratified and drawn from the seed.

    Raises:
        DataUnavailable: There is no such data set.
    """
    names: Sequence[str] = ("digits", "breast_cancer", "wine", "iris")
    if name not in names:
        raise DataUnavailable("no such data set", expected=f"one of {list(names)}", received=name)
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    train_x, test_x, train_y, test_y = train_test_split(
        bunch.data.astype(np.float32),
        bunch.target.astype(np.int64),
        test_size=test_share,
        random_state=seed,
        stratify=bunch.target,
    )
    return Dataset(name, train_x, train_y, test_x, test_y, tuple(str(label) for label in bunch.target_names))


@dataclass(frozen=True)
class Clinc:
    """CLINC150: sentences by intent, intents by domain, and sentences about something else.

    Args:
        sentences: (text, intent) pairs by split; `oos` is the intent of those that have none.
        domains: Intents by domain.

    Source: Larson et al., "An evaluation dataset for intent classification and out-of-scope prediction",
    EMNLP 2019.
    """

    sentences: Mapping[str, Sequence[tuple[str, str]]]
    domains: Mapping[str, Sequence[str]]

    @property
    def labels(self) -> list[str]:
        """All intents, by domain."""
        return [label for labels in self.domains.values() for label in labels]

    def texts_of(self, split: str, label: str) -> list[str]:
        """Return the sentences of an intent."""
        return [text for text, intent in self.sentences[split] if intent == label]

    @property
    def out_of_scope(self) -> list[str]:
        """All sentences that are of no intent."""
        splits = ("oos_train", "oos_val", "oos_test")
        return [text for split in splits for text, _ in self.sentences[split]]


@lru_cache(maxsize=1)
def clinc() -> Clinc:
    """Return CLINC150.

    Raises:
        DataUnavailable: Its files are not there.
    """
    folder = data_dir() / "clinc150"
    try:
        with gzip.open(folder / "data_full.json.gz") as file:
            sentences = json.load(file)
        return Clinc(sentences, json.loads((folder / "domains.json").read_text()))
    except OSError as error:
        raise DataUnavailable("CLINC150 is not there", expected=f"its files in {folder}") from error
