"""Stores of other networks than the default one: made on the command line, taught, served, taken out."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from superposed import RetrievedModel
from superposed.config import ConvNetConfig, MLPConfig
from superposed.nn import convnet
from superposed_client import Client
from superposed_service.cli.commands import app
from tests.conftest import serving

NETWORK = ("--network", "convnet", "--input-shape", "1,8,8", "--outputs", "3", "--learning-rate", "1e-3")
IMAGES = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)


def init(path: Path, *options: str) -> Path:
    made = CliRunner().invoke(app, ["init", str(path), "--seed", "1", *options])
    assert made.exit_code == 0, made.output
    return path


def logits(http: httpx.Client, context: str) -> np.ndarray:
    body = {"context": context, "inputs": IMAGES.tolist(), "return": ["logits"]}
    return np.array(http.post("/v1/infer", json=body).raise_for_status().json()["logits"])


def test_a_convolutional_store_is_taught_served_and_taken_out(tmp_path: Path) -> None:
    path = init(tmp_path / "store", *NETWORK)
    with serving(path) as http, Client(str(http.base_url)) as client:
        client.register_task("a", outputs=3, offset=[0.5] * 64)
        client.register_task("b", outputs=2)
        for _ in range(5):
            client.update("a", IMAGES, [0, 1, 2, 0, 1, 2])
            client.update("b", IMAGES, [0, 1] * 3)
        network = client.store().network
        assert (network["kind"], network["inputs"], network["outputs"]) == ("convnet", 64, 3)
        answers = {context: logits(http, context) for context in ("a", "a^0.5", "b")}
        for context, served in answers.items():
            model = RetrievedModel.from_bytes(client.model(context))
            shape = ConvNetConfig.model_validate(model.metadata["network"])
            rows = (torch.from_numpy(IMAGES) - model.tensors["input.offset"]) / model.tensors["input.scale"]
            plain = model.load_into(convnet(shape))
            with torch.inference_mode():
                answer = plain(rows.float().view(6, *shape.input_shape))[:, : model.metadata["outputs"]]
            np.testing.assert_allclose(answer.numpy(), served, rtol=1e-4, atol=1e-4)
    with serving(path) as http:
        for context, served in answers.items():
            np.testing.assert_array_equal(logits(http, context), served)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ("--set", "network.activation=silu", "--set", "network.normalisation=none"),
            {"activation": "silu", "normalisation": "none"},
        ),
        ((), {"activation": MLPConfig().activation, "normalisation": "layer"}),
    ],
)
def test_an_mlp_is_made_as_asked(tmp_path: Path, options: tuple[str, ...], expected: dict[str, str]) -> None:
    path = init(tmp_path / "store", "--inputs", "64", "--hidden", "8", "--outputs", "3", *options)
    with serving(path) as http:
        network = http.get("/v1/store").json()["network"]
        assert expected.items() <= network.items()
