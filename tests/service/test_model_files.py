"""Models out of a server, as ONNX files and torch modules, and models of other libraries into one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from superposed import MLPConfig, RetrievedModel, StoreConfig
from superposed.config import ConvNetConfig, ModuleConfig, NetworkConfig
from superposed.errors import ConfigError
from superposed_client import ApiError, Client, mixture
from tests.conftest import make_directory, serving
from tests.helpers.encoders import copied_minilm, minilm
from tests.helpers.http import problem

WINE, LABELS = load_wine(return_X_y=True)
NAMES = np.array(["red", "white", "rosé"])[LABELS]
NETWORKS: dict[str, NetworkConfig] = {
    "mlp": MLPConfig(inputs=16, hidden=(32, 32), outputs=4),
    "silu without normalisation": MLPConfig(
        inputs=16, hidden=(32,), outputs=4, activation="silu", normalisation="none"
    ),
    "convnet": ConvNetConfig(input_shape=(1, 4, 4), channels=(4,), hidden=(16,), outputs=4),
    "module": ModuleConfig(factory="tests.service.test_model_files:factory", input_shape=(16,), outputs=4),
}


def factory() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))


@contextmanager
def client_of(path: Path, network: NetworkConfig = NETWORKS["mlp"], **settings: Any) -> Iterator[Client]:
    made = make_directory(path, StoreConfig(network=network, **settings))
    with serving(made, max_body_bytes=2**22, max_rows=1024) as http, Client(str(http.base_url)) as client:
        yield client


def taught(client: Client, kind: str) -> Any:
    rows = np.pad(WINE, ((0, 0), (0, 3))) if kind in {"convnet", "module"} else WINE  # whole images
    task = client.task("wine", labels=["red", "white", "rosé"], scaling="running")
    return task.fit(rows, NAMES, epochs=5, seed=0), rows


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_onnx_file_answers_as_the_server(tmp_path: Path, kind: str) -> None:
    with client_of(tmp_path / "store", NETWORKS[kind]) as client:
        task, rows = taught(client, kind)
        task.export(tmp_path / "wine.onnx")
        expected = task.predict_proba(rows)
        module = task.to_torch(factory() if kind == "module" else None)
        if kind == "module":
            with pytest.raises(ConfigError, match="the user's own"):
                task.to_torch()
    file = onnx.load(tmp_path / "wine.onnx")
    onnx.checker.check_model(file)
    session = InferenceSession(file.SerializeToString())
    probabilities, labels = session.run(["probabilities", "label"], {"rows": rows.astype(np.float32)})
    assert np.abs(probabilities - expected).max() < 1e-4
    assert (labels == NAMES).mean() > 0.9
    with torch.inference_mode():
        assert np.abs(module(torch.from_numpy(rows)).numpy() - expected).max() < 1e-4
    metadata = {one.key: one.value for one in file.metadata_props}
    assert json.loads(metadata["labels"]) == ["red", "white", "rosé"]


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_values_in_their_own_units(tmp_path: Path, kind: str) -> None:
    rows, y = load_diabetes(return_X_y=True)
    rows = np.pad(rows, ((0, 0), (0, 6))) if kind == "convnet" else rows
    with client_of(tmp_path / "store", NETWORKS[kind]) as client:
        task = client.task("sugar", outputs=1, loss="mse", scaling="running").fit(rows, 1000 + y, epochs=2, seed=0)
        task.export(tmp_path / "sugar.onnx")
        expected, module = task.predict(rows), task.to_torch()
    [found] = InferenceSession(tmp_path / "sugar.onnx").run(None, {"rows": rows.astype(np.float32)})
    assert np.abs(found[:, 0] / expected - 1).max() < 1e-4
    with torch.inference_mode():
        assert np.abs(module(torch.from_numpy(rows)).numpy()[:, 0] / expected - 1).max() < 1e-4


def test_8_bits_tell_how_often_they_agree(tmp_path: Path) -> None:
    with client_of(tmp_path / "store") as client:
        task, rows = taught(client, "mlp")
        task.export(tmp_path / "exact.onnx")
        task.export(tmp_path / "small.onnx", int8=True)
    exact, small = (InferenceSession(tmp_path / name) for name in ("exact.onnx", "small.onnx"))
    metadata = small.get_modelmeta().custom_metadata_map
    assert int(metadata["int8_rows"]) > 0
    assert 0.8 < float(metadata["int8_agreement"]) <= 1.0
    first, second = (one.run(["label"], {"rows": rows.astype(np.float32)})[0] for one in (exact, small))
    assert (first == second).mean() > 0.8
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "exact.onnx").stat().st_size


def test_compositions_complex_contexts_and_whole_numbers_as_labels(tmp_path: Path) -> None:
    with client_of(tmp_path / "store", family="phase") as client:
        for key in ("a", "b"):
            client.task(key, labels=[7, 8, 9], scaling="none").fit(WINE, LABELS + 7, epochs=2, seed=0)
        both = client.task(mixture({"a": 0.5, "b": 0.5}))
        both.export(tmp_path / "both.onnx")
        expected = both.predict_proba(WINE)
    found, label = InferenceSession(tmp_path / "both.onnx").run(None, {"rows": WINE.astype(np.float32)})
    assert np.abs(found - expected).max() < 1e-4
    assert label.dtype == np.int64
    assert set(label) <= {7, 8, 9}


def test_records_of_numbers_also_where_some_are_missing(tmp_path: Path) -> None:
    frame = load_wine(as_frame=True).data.sample(frac=1, random_state=0)
    names = NAMES[frame.index]
    holes = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.2)
    with client_of(tmp_path / "store", MLPConfig(inputs=64, hidden=(32,), outputs=4)) as client:
        task = client.task("wine", labels=["red", "white", "rosé"]).fit(holes, names, epochs=3, seed=0)
        task.export(tmp_path / "wine.onnx")
        task.export(tmp_path / "small.onnx", int8=True)
        expected, module = task.predict_proba(holes), task.to_torch()
        other = client.task("mixed", labels=["red", "white", "rosé"])
        other.fit(frame.assign(country="it"), names, seed=0)
        with pytest.raises(ApiError, match="country"):
            other.export(tmp_path / "mixed.onnx")
    small = InferenceSession(tmp_path / "small.onnx").get_modelmeta().custom_metadata_map
    assert 0.8 < float(small["int8_agreement"]) <= 1
    file = InferenceSession(tmp_path / "wine.onnx")
    assert file.get_inputs()[0].shape[1] == 13
    found, _ = file.run(None, {"rows": holes.to_numpy(np.float32)})
    assert np.abs(found - expected).max() < 1e-4
    with torch.inference_mode():
        assert np.abs(module(torch.tensor(holes.to_numpy())).numpy() - expected).max() < 1e-4
    features = json.loads(file.get_modelmeta().custom_metadata_map["features"])
    assert [name for name, _ in features] == list(frame.columns)


def test_texts_with_their_encoder(tmp_path: Path) -> None:
    from superposed.encoders import describe

    copied_minilm(tmp_path / "store" / "encoders" / "texts")
    encoder = describe("sentence-transformers:all-MiniLM-L6-v2", tmp_path / "store" / "encoders" / "texts")
    path = make_directory(
        tmp_path / "store", StoreConfig.of_preset("texts", {"encoders": {"texts": encoder.model_dump()}})
    )
    texts, intents = ["good day", "see you", "hello there", "bye bye"] * 5, ["hello", "bye"] * 10
    with serving(path) as http, Client(str(http.base_url), timeout_s=120) as client:
        task = client.task("intents", labels=["hello", "bye"]).fit(texts, intents, epochs=3, seed=0)
        task.export(tmp_path / "intents.onnx", encoder=True)
        expected = task.predict_proba(texts[:4])
        client.task("numbers", outputs=2, inputs=384).fit(np.eye(384)[:4], [0, 1, 0, 1])
        problem(
            http.get("/v1/model", params={"context": "numbers", "format": "onnx", "encoder": True}),
            422,
            "invalid-request",
        )
    tokenizer = minilm().tokenizer
    session = InferenceSession(tmp_path / "intents.onnx")
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    tokens = tokenizer.encode_batch(texts[:4])
    feeds = {
        one.name: np.asarray([getattr(token, fields[one.name]) for token in tokens]) for one in session.get_inputs()
    }
    found, label = session.run(["probabilities", "label"], feeds)
    assert np.abs(found - expected).max() < 1e-4
    assert label.tolist() == intents[:4]


def test_other_questions_are_refused(tmp_path: Path) -> None:
    with client_of(tmp_path / "store") as client:
        taught(client, "mlp")
        for wrong in (
            {"format": "pickle"},
            {"int8": "true"},
            {"encoder": "true"},
            {"format": "onnx", "encoder": "true"},
        ):
            answer = client._http.get("/v1/model", params={"context": "wine"} | wrong)
            problem(answer, 422, "invalid-request")
        with pytest.raises(ApiError):
            client.task("nobody").export(tmp_path / "nobody.onnx")
        assert not (tmp_path / "nobody.onnx").exists()


def network_of(rows: np.ndarray) -> torch.nn.Module:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(13, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    inputs, targets = torch.tensor(rows, dtype=torch.float32), torch.tensor(LABELS)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("kind", ["module", "state", "onnx", "estimator", "function"])
def test_a_foreign_model_is_learned(tmp_path: Path, kind: str) -> None:
    rows = StandardScaler().fit_transform(WINE)
    module = network_of(rows)
    with client_of(tmp_path / "store") as client:
        first = client.task("first", labels=["red", "white", "rosé"]).fit(rows, NAMES, epochs=8, seed=0)
        first.export(tmp_path / "first.onnx")
        models: dict[str, Any] = {
            "module": module,
            "state": module.state_dict(),
            "onnx": tmp_path / "first.onnx",
            "estimator": LogisticRegression().fit(rows, NAMES),
            "function": lambda x: module(torch.tensor(x, dtype=torch.float32)).detach().numpy(),
        }
        task = client.task("learned", labels=["red", "white", "rosé"])
        assert task.learn_model(models[kind], rows, epochs=15) > 0.85
        assert (task.predict(rows) == NAMES).mean() > 0.85
    assert module.training


def test_a_foreign_model_that_does_not_fit(tmp_path: Path) -> None:
    with client_of(tmp_path / "store") as client:
        two = client.task("two", labels=["red", "white"])
        with pytest.raises(ValueError, match="3 classes, and the task has 2 labels"):
            two.learn_model(network_of(StandardScaler().fit_transform(WINE)), WINE)
        with pytest.raises(ValueError, match="give the module itself"):
            two.learn_model({"conv.weight": np.zeros((2, 2, 3, 3))}, WINE)
        assert client.list_tasks() == []


def test_a_module_of_a_stored_network_needs_no_store(tmp_path: Path) -> None:
    with client_of(tmp_path / "store", NETWORKS["convnet"]) as client:
        task, rows = taught(client, "convnet")
        data, expected = client.model("wine"), task.predict_proba(rows)
    module = RetrievedModel.from_bytes(data).to_module()
    with torch.inference_mode():
        assert np.abs(module(torch.from_numpy(rows)).numpy() - expected).max() < 1e-4
