"""Takes the pictures of the console in docs/images: `python -m tests.browser.screenshots`.

A store learns the demo's tasks, a little traffic is sent to it, and each view is photographed.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page

from demo.demo_tasks import DemoTask, demo_tasks
from demo.run import teach
from demo.server_process import Server
from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, WeightStore, seeded_secret
from superposed_client import Client
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory
from tests.browser.chromium import chromium

_TRAFFIC_S = 75
_SEVEN = ((0.3, 0.27), (0.45, 0.25), (0.7, 0.26), (0.66, 0.4), (0.56, 0.6), (0.48, 0.82))


class Traffic(threading.Thread):
    """Asks about test rows of all tasks, and now and then teaches some, until it is stopped."""

    def __init__(self, url: str, tasks: list[DemoTask]) -> None:
        super().__init__()
        self._url, self._tasks, self._ended = url, tasks, threading.Event()

    def run(self) -> None:
        random = np.random.default_rng(0)
        with Client(self._url) as client:
            while not self._ended.wait(float(random.gamma(2.0, 0.02))):
                task = self._tasks[int(random.integers(len(self._tasks)))]
                rows = random.integers(len(task.data.test_y), size=int(random.integers(1, 24)))
                client.infer(task.key, task.data.test_x[rows])
                if random.random() < 0.08:
                    chosen = random.integers(len(task.data.train_y), size=16)
                    client.update(task.key, task.data.train_x[chosen], task.data.train_y[chosen].tolist())

    def stop(self) -> None:
        self._ended.set()
        self.join()


def open_view(browser: Browser, url: str, view: str, *, dark: bool = False, phone: bool = False) -> Page:
    size = {"width": 390, "height": 844} if phone else {"width": 1360, "height": 1040}
    context = browser.new_context(
        viewport=size,  # type: ignore[arg-type]
        color_scheme="dark" if dark else "light",
        device_scale_factor=2 if phone else 1,
    )
    page = context.new_page()
    page.goto(f"{url}/console#/{view}")
    page.get_by_role("heading", level=1).wait_for()
    page.wait_for_timeout(1500)
    return page


def draw_seven(page: Page) -> None:
    box = page.locator(".pad canvas").bounding_box()
    assert box is not None
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in _SEVEN]
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]:
        page.mouse.move(x, y, steps=6)
    page.mouse.up()


def photograph(browser: Browser, server: Server, tasks: list[DemoTask], folder: Path) -> None:
    traffic = Traffic(server.url, tasks)
    overview = open_view(browser, server.url, "overview")
    dark = open_view(browser, server.url, "overview", dark=True)
    traffic.start()
    overview.wait_for_timeout(1000 * _TRAFFIC_S)
    overview.screenshot(path=folder / "console-overview.png")
    dark.screenshot(path=folder / "console-overview-dark.png")
    traffic.stop()
    interference = open_view(browser, server.url, "interference")
    interference.screenshot(path=folder / "console-interference.png", full_page=True)
    for name, phone in (("console-playground", False), ("console-phone", True)):
        page = open_view(browser, server.url, "playground", dark=not phone, phone=phone)
        draw_seven(page)
        if not phone:
            page.get_by_role("button", name="Mix in another task").click()
        page.wait_for_timeout(1000)
        page.screenshot(path=folder / f"{name}.png", full_page=not phone)
    with server.client() as client:
        client.take_snapshot()
    operations = open_view(browser, server.url, "operations")
    operations.screenshot(path=folder / "console-operations.png", full_page=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist", help="digits or mnist")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    tasks = demo_tasks(options.data)
    config = plain_config(
        network=MLPConfig(inputs=max(task.data.features for task in tasks)),
        optimizer=OptimizerConfig(learning_rate=3e-4),
    )
    with tempfile.TemporaryDirectory(prefix="superposed-console-") as name:
        with DataDirectory(Path(name) / "store") as directory:
            begin(directory, WeightStore(config, secret=seeded_secret(0)))
        with Server(Path(name) / "store") as server, chromium() as browser:
            with server.client() as client:
                teach(client, tasks)
            photograph(browser, server, tasks, options.output)


if __name__ == "__main__":
    main()
