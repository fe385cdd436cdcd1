"""The console in a real browser, against real servers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from playwright.sync_api import Page, Route, expect

from demo.server_process import Server
from superposed import WeightStore
from superposed.tasks.schema import TaskSchema
from superposed_service.changes.snapshot import begin
from superposed_service.runtime.event_stream import Event
from superposed_service.storage import DataDirectory
from tests.browser.conftest import Taught
from tests.browser.drawing import draw
from tests.conftest import CONFIG, make_directory, serving
from tests.helpers.api_keys import make
from tests.helpers.encoders import png
from tests.helpers.http import ROW, register

VIEWS = ("overview", "interference", "playground", "operations")


def show(page: Page, url: str, view: str) -> None:
    """Opens a view and waits until it is up."""
    page.goto(f"{url}/console#/{view}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()


class TestOverview:
    def test_what_the_store_is_and_what_it_learns(self, page: Page, taught: Taught) -> None:
        show(page, taught.server.url, "overview")
        expect(page.get_by_role("heading", level=1)).to_have_text("4 tasks, one set of weights")
        expect(page.locator("#connection")).to_have_text("Live")
        expect(page.locator(".tasks-list")).to_contain_text("digits-permuted")
        expect(page.locator(".live canvas")).to_have_count(4)
        with taught.client() as client:
            before = client.get_task("iris").rows_seen
            made = client.update("iris", [[5.1, 3.5, 1.4, 0.2]] * 3, ["setosa"] * 3)
        feed = page.locator(".feed li").first
        expect(feed).to_contain_text(f"#{made.sequence}")
        expect(feed).to_contain_text("3 rows")
        row = page.locator(".task-row", has_text="iris")
        expect(row).to_contain_text(str(before + 3))
        expect(row).to_contain_text(f"#{made.sequence:,}")

    def test_search_sort_and_the_panel(self, page: Page, taught: Taught) -> None:
        show(page, taught.server.url, "overview")
        page.get_by_role("searchbox", name="Search tasks").fill("PERM")
        expect(page.locator(".task-row:visible")).to_have_count(1)
        page.get_by_role("searchbox", name="Search tasks").fill("")
        page.get_by_role("button", name="Task", exact=True).click()
        expect(page.locator(".task-row:visible button").first).to_have_text("digits")
        page.locator(".task-row button", has_text="iris").click()
        panel = page.get_by_role("dialog")
        expect(panel).to_contain_text("setosa, versicolor, virginica")
        expect(panel.locator("canvas")).to_have_count(2)
        page.keyboard.press("Escape")
        expect(panel).to_have_count(0)

    def test_an_empty_store_says_how_to_begin(self, page: Page, tmp_path: Path) -> None:
        with serving(make_directory(tmp_path / "store")) as http:
            show(page, str(http.base_url), "overview")
            expect(page.get_by_text("No tasks yet")).to_be_visible()
            register(http)
            expect(page.locator(".task-row")).to_contain_text("not taught")
            page.close()


class TestInterference:
    def test_overlap_crosstalk_and_forgetting(self, page: Page, taught: Taught) -> None:
        show(page, taught.server.url, "interference")
        expect(page.locator(".chart.square:has(canvas)")).to_have_count(2)
        with taught.client() as client:
            keys = [chip.inner_text() for chip in page.locator('.chip[aria-pressed="true"]').all()]
            found = client.interference(keys)
        assert set(keys) == {"digits", "digits-permuted", "iris", "slope"}
        assert found.crosstalk[keys.index("slope")] is None
        card = page.get_by_role("region", name="Overlap of contexts")
        card.get_by_text("As a table").click()
        expect(card.locator("tbody tr").first.locator("td").nth(1)).to_have_text(f"{found.overlap[0][1]:.3f}")
        expect(page.get_by_text("No rows kept of slope")).to_be_visible()
        expect(page.get_by_role("img", name=re.compile("Accuracy of 2 tasks"))).to_be_visible()
        expect(page.get_by_role("region", name="Capacity")).to_contain_text("Not known yet")
        page.locator(".chip", has_text="slope").click()
        expect(page.get_by_text("No rows kept of slope")).to_have_count(0)


class TestPlayground:
    def test_real_digits_are_drawn_and_known(self, page: Page, taught: Taught) -> None:
        show(page, taught.server.url, "playground")
        digits = taught.digits
        with taught.client() as client:
            known = client.infer("digits", digits.test_x[:30]).labels
        drawn = 0
        for place, label in enumerate(known or ()):
            truth = digits.labels[digits.test_y[place]]
            if label != truth or drawn == 3:
                continue  # what is not known from its own pixels is not known from a drawing
            draw(page, digits.test_x[place], taught.side)
            expect(page.locator("[data-answer]")).to_have_attribute("data-answer", truth)
            page.get_by_role("button", name="Clear").click()
            expect(page.locator("[data-answer]")).to_have_count(0)
            drawn += 1
        assert drawn == 3

    def test_a_mixture_and_a_power_by_keyboard(self, page: Page, taught: Taught) -> None:
        show(page, taught.server.url, "playground")
        draw(page, taught.digits.test_x[0], taught.side)
        answer = page.get_by_role("region", name="Answer")
        expect(answer).to_contain_text("digits at #")
        page.get_by_role("button", name="Mix in another task").press("Enter")
        expression = page.locator(".expression")
        expect(expression).to_have_text("mix(digits:0.7,digits-permuted:0.3)")
        expect(answer).to_contain_text("mix(digits:0.7,digits-permuted:0.3) at #")
        before = answer.locator(".bars").inner_text()
        slider = page.get_by_role("slider", name="Weight of digits-permuted")
        slider.focus()
        for _ in range(20):
            slider.press("ArrowRight")
        expect(expression).to_have_text("mix(digits:0.7,digits-permuted:0.5)")
        expect(answer).to_contain_text("mix(digits:0.7,digits-permuted:0.5) at #")
        assert answer.locator(".bars").inner_text() != before
        page.get_by_role("slider", name="Power").press("ArrowLeft")
        expect(expression).to_have_text("mix(digits:0.7,digits-permuted:0.5)^0.95")
        page.get_by_role("button", name="Reset").press("Enter")
        expect(expression).to_have_text("digits")

    def test_the_pad_is_drawn_on_with_keys_alone(self, page: Page, taught: Taught) -> None:
        show(page, taught.server.url, "playground")
        pad = page.locator(".pad canvas")
        pad.focus()
        for key in (" ", *["ArrowDown"] * 12):
            page.keyboard.press(key)
        expect(page.locator("[data-answer]")).to_be_visible()
        page.keyboard.press("Delete")
        expect(page.locator("[data-answer]")).to_have_count(0)

    def answer_as_a_cell(self, route: Route) -> None:
        """Let a request through, and say which cell of a cluster has answered it."""
        answer = route.fetch()
        route.fulfill(response=answer, headers=answer.headers | {"x-cell": "north"})

    def test_an_update_is_sent_and_taken_back(self, page: Page, taught: Taught) -> None:
        rows = taught.digits.test_x[:5]
        with taught.client() as client:
            before = client.infer("digits", rows, fields=["logits"]).logits
            show(page, taught.server.url, "playground")
            draw(page, rows[0], taught.side)
            page.get_by_role("button", name="Teach", exact=True).click()
            expect(page.get_by_text("Choose what it is first.")).to_be_visible()
            page.locator(".labels").get_by_text("3", exact=True).click()
            page.get_by_label("Steps").select_option("20")
            page.route("**/v1/update", lambda route: self.answer_as_a_cell(route))
            page.get_by_role("button", name="Teach", exact=True).click()
            expect(page.get_by_text("Of the 1 taught here, 0 were right before and 1 are now.")).to_be_visible()
            expect(page.locator("[data-answer]")).to_have_attribute("data-answer", "3")
            assert client.infer("digits", rows, fields=["logits"]).logits != before
            page.get_by_role("button", name=re.compile(r"^Undo #\d+")).click()
            with page.expect_request("**/v1/rollback") as asked:
                page.get_by_role("dialog").get_by_role("button", name="Undo it").click()
            assert asked.value.headers["x-cell"] == "north"  # the one that taught it
            expect(page.get_by_text("is taken back")).to_be_visible()
            assert client.infer("digits", rows, fields=["logits"]).logits == before

    def test_numbers_from_a_form_and_pasted(self, page: Page, taught: Taught) -> None:
        show(page, taught.server.url, "playground?task=iris")
        for place, value in enumerate((5.1, 3.5, 1.4, 0.2), start=1):
            page.get_by_label(str(place), exact=True).fill(str(value))
        expect(page.locator("[data-answer]")).to_have_attribute("data-answer", "setosa")
        paste = page.get_by_label(re.compile("Paste rows"))
        paste.fill("a,b,c,d\n5.1,3.5,1.4,0.2\n6.3,3.3,6.0,2.5")
        expect(page.get_by_role("region", name="Answers").locator("tbody tr")).to_have_count(2)
        paste.fill("[[1, 2, 3]]")
        expect(page.get_by_role("alert")).to_contain_text("Row 1 has 3 numbers; the task has 4 features.")
        paste.fill("[1, 2, 3, 4")
        expect(page.get_by_role("alert")).to_contain_text("Not JSON")
        page.get_by_role("combobox", name="Task", exact=True).select_option("slope")
        paste.fill("")
        expect(page.get_by_role("region", name="Answer", exact=True)).to_contain_text("slope at #")

    def test_which_task_is_this(self, page: Page, taught: Taught) -> None:
        show(page, taught.server.url, "playground")
        draw(page, taught.digits.test_x[0], taught.side)
        place = page.get_by_role("region", name="Which task is this?")
        place.get_by_role("button").click()
        expect(place.locator(".best .name")).to_have_text("digits")


class TestOperations:
    def test_a_snapshot_is_taken_and_gone_back_to(self, page: Page, tmp_path: Path) -> None:
        with serving(make_directory(tmp_path / "store")) as http:
            register(http)
            show(page, str(http.base_url), "operations")
            expect(page.get_by_role("region", name="Health")).to_contain_text("ready")
            page.get_by_role("button", name="Take a snapshot").click()
            expect(page.get_by_text("Snapshot at #1")).to_be_visible()
            http.post("/v1/update", json={"context": "digits", "inputs": [ROW], "targets": ["0"]})
            page.get_by_role("button", name="Go back to snapshot #1").click()
            page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
            assert http.get("/v1/store").json()["sequence"] == 2
            page.get_by_role("button", name="Go back to snapshot #1").click()
            page.get_by_role("dialog").get_by_role("button", name="Go back").click()
            expect(page.get_by_text("#2. The rollback is #3.")).to_be_visible()
            page.get_by_label("Sequence number").fill("999")
            page.get_by_role("button", name="Roll back…").click()
            page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
            expect(page.get_by_role("region", name="Rollback").get_by_role("alert")).to_be_visible()
            page.get_by_label("Task key, or key:<id>").fill("digits")
            page.get_by_role("button", name="Hold back…").click()
            page.get_by_role("dialog").get_by_role("button", name="Hold back").click()
            page.get_by_role("button", name="Release digits").click()
            expect(page.get_by_text("Nobody is in quarantine.")).to_be_visible()
            page.close()

    def test_keys(self, page: Page, tmp_path: Path) -> None:
        with serving(make_directory(tmp_path / "store")) as http:
            show(page, str(http.base_url), "operations")
            card = page.get_by_role("region", name="API keys")
            card.get_by_label("Name").fill("first")
            card.get_by_label("Scope").select_option("admin")
            card.get_by_role("button", name="Make a key").click()
            secret = page.locator(".secret").inner_text()
            assert re.fullmatch(r"sp-[0-9a-f]{12}-\S{43}", secret)
            http.headers["Authorization"] = f"Bearer {secret}"
            assert [key["name"] for key in http.get("/v1/keys").json()] == ["first"]
            expect(card.locator("tbody tr")).to_have_count(1)  # this tab goes on with it
            card.get_by_label("Name").fill("second")
            card.get_by_role("button", name="Make a key").click()
            row = card.locator("tbody tr", has_text="second")
            row.get_by_role("button", name="Revoke").click()
            page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
            expect(row).to_contain_text("revoked")
            page.close()


class TestAccess:
    def test_a_wrong_key_is_refused_and_a_good_one_is_kept_in_the_tab(self, page: Page, tmp_path: Path) -> None:
        with serving(make_directory(tmp_path / "store")) as http:
            register(http)
            http.headers.update(make(http, "admin"))
            reader = make(http, "infer")["Authorization"].partition(" ")[2]
            page.goto(f"{http.base_url}/console")
            dialog = page.get_by_role("dialog")
            expect(dialog).to_contain_text("A key is needed")
            dialog.get_by_label("Key").fill(f"sp-{'0' * 12}-{'x' * 43}")
            dialog.get_by_role("button", name="Use key").click()
            expect(dialog).to_contain_text("Key refused")
            dialog.get_by_label("Key").fill(reader)
            page.keyboard.press("Enter")
            expect(page.locator(".task-row")).to_contain_text("digits")
            expect(page.locator("#connection")).to_have_text("Live")
            assert reader not in page.evaluate("JSON.stringify({...localStorage}) + document.cookie + location.href")
            page.goto(f"{http.base_url}/console#/operations")
            refused = page.get_by_role("region", name="Snapshots").get_by_role("alert")
            expect(refused).to_contain_text("This API key may not do this.")
            expect(refused).to_contain_text("Expected: scope admin. Received: scope infer.")
            other = page.context.new_page()
            other.goto(f"{http.base_url}/console")
            expect(other.get_by_role("dialog")).to_contain_text("A key is needed")
            page.context.close()


class TestConnection:
    def test_a_dropped_connection_comes_back(self, page: Page, tmp_path: Path) -> None:
        apis: list[FastAPI] = []
        with serving(make_directory(tmp_path / "store"), change=apis.append, event_queue=4) as http:
            register(http)
            show(page, str(http.base_url), "overview")
            expect(page.locator("#connection")).to_have_text("Live")
            page.context.set_offline(True)  # meets new connections only; the one there is falls behind:
            events = apis[0].state.events
            while events.listeners:
                events.publish(Event("register", {"sequence": 1, "task": "digits"}, 1))
            expect(page.get_by_text("The connection is lost")).to_be_visible(timeout=15_000)
            expect(page.locator(".task-row")).to_contain_text("digits")  # what was seen stays
            http.post("/v1/update", json={"context": "digits", "inputs": [ROW], "targets": ["0"]})
            page.context.set_offline(False)
            expect(page.locator("#connection")).to_have_text("Live", timeout=15_000)
            expect(page.get_by_text("The connection is lost")).to_have_count(0)
            expect(page.locator(".feed li").first).to_contain_text("#2")  # what was missed is told
            expect(page.locator(".task-row")).to_contain_text("#2")
            page.close()


class TestManyTasks:
    def test_five_thousand_without_jank(self, page: Page, tmp_path: Path) -> None:
        store = WeightStore(CONFIG)
        for number in range(5000):
            store.register(TaskSchema(key=f"task-{number:04}", inputs=64, outputs=2))
        with DataDirectory(tmp_path / "store") as directory:
            begin(directory, store)
        with serving(tmp_path / "store") as http:
            page.goto(f"{http.base_url}/console")
            expect(page.get_by_text("5,000 shown of 5,000")).to_be_visible(timeout=20_000)
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})  # of this thread alone

            def script_s() -> float:
                metrics = session.send("Performance.getMetrics")["metrics"]
                return float({one["name"]: one["value"] for one in metrics}["ScriptDuration"])

            page.locator(".tasks-body").hover()
            before = script_s()
            for number in range(40):
                body = {"context": f"task-{number:04}", "inputs": [ROW], "targets": [0]}
                assert http.post("/v1/update", json=body).status_code == 200
                page.mouse.wheel(0, 4000)
                page.wait_for_timeout(16)
            assert (script_s() - before) / 40 < 0.016  # a frame's time, of which scripts take a part
            assert page.locator(".task-row").count() < 60
            page.get_by_role("searchbox", name="Search tasks").fill("4321")
            expect(page.locator(".task-row:visible")).to_have_count(1)
            expect(page.locator(".task-row:visible")).to_contain_text("task-4321")
            page.close()


class TestAccessibility:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_nothing_serious(self, page: Page, taught: Taught, axe: str, scheme: str) -> None:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        for view in VIEWS:
            show(page, taught.server.url, view)
            page.wait_for_timeout(600)  # until charts are drawn
            page.evaluate(axe)
            found = page.evaluate("axe.run()")["violations"]
            serious = [
                (one["id"], [node["html"][:200] for node in one["nodes"]])
                for one in found
                if one["impact"] in {"serious", "critical"}
            ]
            assert serious == [], view

    def test_nothing_is_wider_than_a_small_phone(self, page: Page, taught: Taught) -> None:
        page.set_viewport_size({"width": 390, "height": 844})
        for view in VIEWS:
            show(page, taught.server.url, view)
            page.wait_for_timeout(400)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, view

    def test_a_view_is_reached_by_keyboard(self, page: Page, taught: Taught) -> None:
        show(page, taught.server.url, "overview")
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to the view")).to_be_focused()
        page.get_by_role("link", name="Playground").press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Playground")
        expect(page.locator("#main")).to_be_focused()


def test_the_api_page_shows_every_route_and_tries_one(page: Page, taught: Taught) -> None:
    """Everything comes from the server itself, under its policy."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{taught.server.url}/docs")
    expect(page.locator("#docs .opblock").first).to_be_visible()
    routes = page.locator("#docs .opblock")
    assert routes.count() > 30
    page.locator("#docs .opblock", has_text="/health/live").first.locator("button").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text("live")
    assert asked
    assert all(url.startswith((taught.server.url, "data:", "blob:")) for url in asked)


class TestOriginals:
    """Texts are typed and images are dropped as files; both are asked about, taught and placed."""

    def test_texts_are_typed_taught_and_placed(self, page: Page, originals: Server) -> None:
        show(page, originals.url, "playground?task=support")
        box = page.get_by_label("One text a line")
        box.fill("my card was declined")
        page.locator("[data-answer]").wait_for()
        page.get_by_label("train", exact=True).check(force=True)
        page.get_by_role("button", name="Teach").click()
        page.get_by_text("Learned as").wait_for()
        page.get_by_role("button", name="Which task is this?").click()
        page.get_by_text("Placed.").wait_for()
        box.fill("my card was declined\nis the train late")
        page.get_by_text("rows answered").wait_for()
        with originals.client() as client:
            assert client.get_task("support").rows_seen == 1

    def test_records_have_their_features_names(self, page: Page, originals: Server) -> None:
        show(page, originals.url, "playground?task=customers")
        page.get_by_label("age", exact=True).fill("35")
        page.get_by_label("plan", exact=True).fill("pro")
        page.locator("[data-answer]").wait_for()
        page.get_by_label("leaves", exact=True).check(force=True)
        page.get_by_role("button", name="Teach").click()
        page.get_by_text("Learned as").wait_for()
        with originals.client() as client:
            assert client.get_task("customers").rows_seen == 3
        page.get_by_role("button", name="Which task is this?").click()
        page.get_by_text("Placed.").wait_for()
        paste = page.get_by_label(re.compile("Paste records"))
        paste.fill("age, plan\n35, pro\n, free")
        expect(page.get_by_role("region", name="Answers").locator("tbody tr")).to_have_count(2)
        paste.fill('{"age": 35}\n{"plan": "free", "since": "2025-01-01"}')
        expect(page.get_by_role("region", name="Answers").locator("tbody tr")).to_have_count(2)
        paste.fill("age, plan\n35")
        expect(page.get_by_role("alert")).to_contain_text("Line 2 has 1 values; the first line has 2 names.")

    def test_images_are_chosen_as_files(self, page: Page, originals: Server, tmp_path: Path) -> None:
        files = []
        for number in range(2):
            files.append(tmp_path / f"{number}.png")
            files[-1].write_bytes(png(np.full((12, 12), 90 * number, dtype=np.uint8)))
        show(page, originals.url, "playground?task=pictures")
        page.locator("input[type=file]").set_input_files(files)
        page.get_by_text("rows answered").wait_for()
        assert page.locator("img.thumb").count() == 2
        page.get_by_label("dark", exact=True).check(force=True)
        page.get_by_role("button", name="Teach").click()
        page.get_by_text("Learned as").wait_for()
        page.locator("input[type=file]").set_input_files([files[0]])
        page.locator("[data-answer]").wait_for()
