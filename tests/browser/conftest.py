from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from demo.server_process import Server
from experiments.datasets import Dataset, DataUnavailable, idx_dataset, sklearn_dataset
from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, WeightStore, seeded_secret
from superposed.encoders import describe
from superposed_client import Client
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory
from tests.browser.chromium import EXECUTABLE, chromium
from tests.conftest import GIVEN_URL, given_server

if EXECUTABLE is None:
    pytest.skip("no Chromium here: `apt-get install chromium` runs the browser tests", allow_module_level=True)


expect.set_options(timeout=30_000)  # however slow the machine is


@dataclass(frozen=True)
class Taught:
    """A server whose store has learned real digits.

    Args:
        server: The server.
        digits: Real digits: MNIST where its files are, else scikit-learn's.
        side: Of their pictures.
    """

    server: Server
    digits: Dataset
    side: int

    def client(self) -> Client:
        return self.server.client()


def real_digits() -> Dataset:
    try:
        return idx_dataset("mnist")
    except DataUnavailable:
        return sklearn_dataset("digits")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="package")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taught]:
    digits, iris = real_digits(), sklearn_dataset("iris")
    path = tmp_path_factory.mktemp("browser") / "store"
    config = plain_config(
        network=MLPConfig(inputs=digits.features, hidden=(128, 128)), optimizer=OptimizerConfig(learning_rate=1e-3)
    )
    if GIVEN_URL is None:
        with DataDirectory(path) as directory:
            begin(directory, WeightStore(config, secret=seeded_secret(11)))
    with Server(path) if GIVEN_URL is None else given_server(path) as server, server.client() as client:
        scale = float(digits.train_x.std())
        mean = digits.train_x.mean(0, dtype=np.float64)
        for key, data in (("digits", digits), ("digits-permuted", digits.permuted(1))):
            client.register_task(
                key,
                labels=list(data.labels),
                offset=(mean if data is digits else data.train_x.mean(0, dtype=np.float64)).tolist(),
                scale=[scale] * data.features,
            )
            teach(client, key, data, rows=2000 if key == "digits" else 1000, batch=100)
        client.register_task("iris", labels=list(iris.labels), inputs=4, offset=[5.8, 3.1, 3.8, 1.2])
        teach(client, "iris", iris, rows=120, batch=20)
        client.register_task("slope", outputs=1, inputs=4, loss="mse", description="a straight line")
        for key, data in (("digits", digits), ("iris", iris)):
            client.evaluate(key, data.test_x[:200], [data.labels[n] for n in data.test_y[:200]])
        yield Taught(server, digits, round(digits.features**0.5))


@pytest.fixture(scope="package")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a task of texts and one of images."""
    path = tmp_path_factory.mktemp("browser") / "originals"
    encoders = {name: describe(spec, path) for name, spec in (("words", "hash:64"), ("pixels", "pixels:1x8x8"))}
    config = plain_config(network=MLPConfig(inputs=64, hidden=(16,)), encoders=encoders)
    with DataDirectory(path) as directory:
        begin(directory, WeightStore(config, secret=seeded_secret(12)))
    with Server(path) as server, server.client() as client:
        client.register_task("support", labels=["card", "train"], kind="texts")
        client.register_task("pictures", labels=["dark", "bright"], kind="images")
        customers = [{"age": 41, "plan": "pro", "since": "2024-03-01"}, {"age": 29, "plan": "free", "since": None}]
        client.task("customers", labels=["stays", "leaves"]).partial_fit(customers, ["stays", "leaves"])
        yield server


def teach(client: Client, key: str, data: Dataset, *, rows: int, batch: int) -> None:
    for start in range(0, rows, batch):
        chosen = slice(start, start + batch)
        labels = [data.labels[number] for number in data.train_y[chosen]]
        if labels:
            client.update(key, data.train_x[chosen], labels, steps=2)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new tab, in which nothing fails that nobody expects."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        opened = context.new_page()
        complaints: list[str] = []

        def heard(message: ConsoleMessage) -> None:
            # What the network refuses is shown by the page in words; the browser says it too.
            if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
                complaints.append(message.text)

        opened.on("console", heard)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.set_default_timeout(30_000)
        yield opened
        assert complaints == []


@pytest.fixture
def axe() -> str:
    return (Path(__file__).parent / "vendor" / "axe-4.14.1.min.js").read_text()
