"""Images: PNG and JPEG in base64, as bytes over V2, and as pictures and arrays in the SDK."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton_http
from PIL import Image
from sklearn.datasets import load_digits

from superposed.config import ConvNetConfig, StoreConfig
from superposed.encoders import describe
from superposed_client import Client
from tests.conftest import make_directory, serving
from tests.helpers.encoders import png
from tests.helpers.http import problem

DIGITS = load_digits()
PIXELS = (DIGITS.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
LABELS = DIGITS.target.astype(str)


def image_store(path: Any, config: StoreConfig, shape: str) -> Any:
    return make_directory(path, config.replace(encoders={"images": describe(f"pixels:{shape}", path)}))


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    config = StoreConfig.of_preset("general", {"network": {"inputs": 64, "hidden": (64,), "outputs": 10}})
    path = image_store(tmp_path_factory.mktemp("images") / "store", config, "1x8x8")
    with serving(path, max_rows=400, max_body_bytes=2_000_000) as client:
        with Client(str(client.base_url)) as sdk:
            task = sdk.task("digits", labels=[str(n) for n in range(10)])
            task.fit(list(PIXELS[:1200]), LABELS[:1200], batch_size=25, seed=0)
        yield client


def logits(http: httpx.Client, **body: Any) -> np.ndarray:
    answer = http.post("/v1/infer", json={"context": "digits", "return": ["logits"]} | body)
    assert answer.status_code == 200, answer.text
    return np.asarray(answer.json()["logits"])


@pytest.fixture
def expected(http: httpx.Client) -> np.ndarray:
    """Return the logits of three images whose pixels are sent as rows."""
    return logits(http, inputs=PIXELS[1500:1503].reshape(3, -1).tolist())


def test_images_are_learned(http: httpx.Client) -> None:
    with Client(str(http.base_url)) as client:
        described = client.get_task("digits")
        assert (described.kind, described.encoder, described.inputs) == ("images", "images", 64)
        assert (described.scale, described.scaling) == (None, "none")
        assert client.task("digits").score(list(PIXELS[1400:]), LABELS[1400:]) > 0.85


def test_rows_and_every_form_of_an_image_are_answered_alike(
    http: httpx.Client, expected: np.ndarray, tmp_path: Path
) -> None:
    chosen = PIXELS[1500:1503]
    files = [png(one) for one in chosen]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file)
    texts = [base64.b64encode(one).decode() for one in files]
    np.testing.assert_array_equal(logits(http, images=texts), expected)
    with Client(str(http.base_url)) as client:
        forms: list[Any] = [
            list(chosen),
            chosen,
            files,
            paths,
            [Image.fromarray(one) for one in chosen],
            np.repeat(chosen[..., None], 3, axis=3),
        ]
        for form in forms:
            np.testing.assert_array_equal(client.infer("digits", form, fields=["logits"]).logits, expected)
            assert client.task("digits").predict(form).shape == (3,)


@pytest.mark.parametrize(("form", "binary"), [("files", True), ("base64", True), ("base64", False)])
def test_v2_takes_files_and_base64(http: httpx.Client, expected: np.ndarray, form: str, binary: bool) -> None:
    files = [png(one) for one in PIXELS[1500:1503]]
    if form == "base64":
        files = [base64.b64encode(one) for one in files]
    with triton_http.InferenceServerClient(f"{http.base_url.host}:{http.base_url.port}") as client:
        given = triton_http.InferInput("input", [3], "BYTES")
        values = files if binary else [one.decode() for one in files]
        given.set_data_from_numpy(np.asarray(values, dtype=object), binary_data=binary)
        found = client.infer("digits", [given]).as_numpy("logits")
    np.testing.assert_array_equal(found, expected.astype("f4"))


def test_a_convnet_learns_coloured_images(tmp_path: Any) -> None:
    network = ConvNetConfig(input_shape=(3, 8, 8), channels=(8,), hidden=(32,), outputs=2)
    path = image_store(tmp_path / "store", StoreConfig(network=network), "3x8x8")
    draw = np.random.default_rng(0)
    red, blue = draw.integers(0, 256, (2, 20, 8, 8, 3), dtype=np.uint8)
    red[..., 2] = 0
    blue[..., 0] = 0
    with serving(path, max_rows=400) as http, Client(str(http.base_url)) as client:
        task = client.task("colours", labels=["red", "blue"])
        for _ in range(12):
            task.partial_fit(np.concatenate([red, blue]), ["red"] * 20 + ["blue"] * 20)
        assert task.score(np.concatenate([red, blue]), ["red"] * 20 + ["blue"] * 20) == 1.0


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (["!!!"], "not base64"),
        ([7], "not base64"),
        ([base64.b64encode(b"GIF89a and more").decode()], "no image"),
        ([base64.b64encode(png(PIXELS[0])[:45]).decode()], "decoded"),
        ([base64.b64encode(png(np.zeros((5000, 5000), np.uint8))).decode()], "too many pixels"),
        ([], "without rows"),
    ],
)
@pytest.mark.parametrize("route", ["infer", "update"])
def test_bad_images_are_refused_and_nothing_is_learned(
    http: httpx.Client, route: str, images: list[Any], reason: str
) -> None:
    before = http.get("/v1/store").json()["sequence"]
    body: dict[str, Any] = {"context": "digits", "images": images}
    if route == "update":
        body["targets"] = ["1"] * len(images)
    answer = http.post(f"/v1/{route}", json=body)
    assert answer.status_code == 422
    assert reason in answer.text
    assert http.get("/v1/store").json()["sequence"] == before


def test_an_error_names_the_image_as_the_request_has_it(http: httpx.Client) -> None:
    """Among more than one turn's, and beside images whose embeddings are kept; the others are dropped."""
    files = [base64.b64encode(png(one)).decode() for one in PIXELS[:150]]
    assert logits(http, images=files[:50]).shape == (50, 10)
    for place in (10, 49, 90, 140):
        bad = [*files[:place], base64.b64encode(png(PIXELS[0])[:45]).decode(), *files[place + 1 :]]
        answer = http.post("/v1/infer", json={"context": "digits", "images": bad})
        assert f"image {place} cannot be decoded" in answer.text
    assert logits(http, images=files).shape == (150, 10)


def test_other_modes_and_shapes_are_sent_or_said(http: httpx.Client) -> None:
    with Client(str(http.base_url)) as client:
        plain = client.infer("digits", PIXELS[:2], fields=["logits"])
        assert client.infer("digits", PIXELS[:2, ..., None], fields=["logits"]) == plain
        inked = [Image.fromarray(one).convert("CMYK") for one in np.repeat(PIXELS[:2, ..., None], 3, axis=3)]
        assert client.task("digits").predict(inked).shape == (2,)
        for wrong, reason in (
            ([Image.new("F", (8, 8))], "row 0 is an image of mode F"),
            (np.zeros((2, 8, 8, 2), np.uint8), "1, 3 or 4 channels"),
        ):
            with pytest.raises(ValueError, match=reason):
                client.task("digits").predict(wrong)


def test_texts_are_no_images(http: httpx.Client) -> None:
    answer = http.post("/v1/infer", json={"context": "digits", "texts": ["a text"]})
    problem(answer, 422, "shape-mismatch")
    assert "takes images, not texts" in answer.text


@pytest.mark.parametrize("given", [np.zeros((2, 8, 8)), [np.zeros((8, 8), np.uint8), "a text"]])
def test_arrays_that_are_no_images_are_said_before_anything_is_sent(http: httpx.Client, given: Any) -> None:
    with Client(str(http.base_url)) as client, pytest.raises(ValueError, match=r"uint8|row 1"):
        client.task("digits").predict(given)
