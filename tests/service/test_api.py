"""The native API, field by field, as docs/http-api.md has it."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest

from superposed import RetrievedModel
from superposed_client import Client, power
from tests.helpers.http import ROW, problem, register

JSON = {"Content-Type": "application/json"}


def test_store(http: httpx.Client) -> None:
    body = http.get("/v1/store").json()
    assert set(body) == {
        "preset", "family", "network", "derivation_version", "limits", "optimizer", "device", "dtype",
        "sequence", "tasks", "bytes", "rehearsal", "fingerprint", "journal", "recovery", "encoders",
    }  # fmt: skip
    facts = {"horizon": 0, "sequence": 0, "records_since_snapshot": 0, "failure": None}
    assert facts.items() <= body["journal"].items()
    assert set(body["journal"]) == {*facts, "lineage", "incarnation"}
    assert (body["recovery"]["replayed"], body["recovery"]["fingerprint_changed"]) == (0, False)
    assert body["family"] == "phase"
    assert body["network"]["hidden"] == [96, 96]
    assert body["sequence"] == body["tasks"] == 0
    weights = body["bytes"]["weights"]
    assert weights == 4 * (96 * 66 + 96 * 98 + 10 * 98)
    for number in range(30):
        register(http, f"task{number}")
        http.post("/v1/infer", json={"context": f"task{number}", "inputs": [ROW]})
    after = http.get("/v1/store").json()
    assert after["bytes"]["weights"] == weights
    assert after["tasks"] == after["sequence"] == 30
    assert 0 < after["bytes"]["contexts_cached"] <= 256 * 2**20
    assert {"torch", "cpu_capability", "threads", "device"} <= set(after["fingerprint"])


class TestTasks:
    def test_register_show_delete(self, http: httpx.Client) -> None:
        task = register(http, description="eight by eight", offset=[1.0] * 64, scale=[2.0] * 64)
        assert task == http.get("/v1/tasks/digits").json()
        assert task == {
            "key": "digits", "labels": [str(n) for n in range(10)], "label_form": None,
            "scaling": "none", "kind": "rows", "features": None, "extra_features": "refuse",
            "schema_version": 1, "temperature": 1.0,
            "outputs": 10, "inputs": 64,
            "loss": "cross_entropy", "offset": [1.0] * 64, "scale": [2.0] * 64,
            "description": "eight by eight", "rows_seen": 0, "updates": 0,
            "prequential": {"accuracy": None, "loss": None}, "last_sequence": 1,
            "rows_kept": 0, "keep_rows": True, "group": None, "own_layers": None, "composition": None,
            "quarantined": None, "encoder": None, "abstain": None, "standby": False,
        }  # fmt: skip
        assert http.delete("/v1/tasks/digits").status_code == 204
        problem(http.get("/v1/tasks/digits"), 404, "unknown-task")
        problem(http.delete("/v1/tasks/digits"), 404, "unknown-task")

    def test_the_same_again_is_200_and_another_schema_409(self, http: httpx.Client) -> None:
        register(http)
        again = http.post("/v1/tasks", json={"key": "digits", "labels": [str(n) for n in range(10)]})
        assert again.status_code == 200
        body = problem(http.post("/v1/tasks", json={"key": "digits", "outputs": 3}), 409, "task-exists")
        assert "expected" in body
        assert "received" in body

    def test_outputs_without_labels(self, http: httpx.Client) -> None:
        task = register(http, "numbered", labels=None, outputs=4, inputs=3)
        assert (task["labels"], task["outputs"], task["inputs"]) == (None, 4, 3)
        answer = http.post("/v1/infer", json={"context": "numbered", "inputs": [[1, 2, 3]]}).json()
        assert answer["labels"][0] in range(4)
        assert len(answer["probabilities"][0]) == 4

    def test_pages(self, http: httpx.Client) -> None:
        for number in range(7):
            register(http, f"a{number}")
        register(http, "b")
        seen, cursor = [], ""
        while cursor is not None:
            page = http.get("/v1/tasks", params={"limit": 3, "prefix": "a", "cursor": cursor}).json()
            assert len(page["tasks"]) <= 3
            seen += [task["key"] for task in page["tasks"]]
            cursor = page["next_cursor"]
        assert seen == [f"a{number}" for number in range(7)]
        problem(http.get("/v1/tasks", params={"cursor": "@@@"}), 422, "invalid-request")
        problem(http.get("/v1/tasks", params={"limit": 0}), 422, "invalid-request")

    @pytest.mark.parametrize(
        ("body", "slug"),
        [
            ({"key": "a"}, "invalid-request"),
            ({"labels": ["x"]}, "invalid-request"),
            ({"key": "a", "labels": []}, "invalid-request"),
            ({"key": "a", "labels": ["x", "x"]}, "invalid-request"),
            ({"key": "a", "outputs": "3"}, "invalid-request"),
            ({"key": "a", "outputs": 3, "surprise": 1}, "invalid-request"),
            ({"key": "a", "outputs": 3, "loss": "hinge"}, "invalid-request"),
            ({"key": "a", "outputs": 3, "inputs": 2, "scale": [0, 1]}, "invalid-request"),
            ({"key": "a", "outputs": 3, "inputs": 2, "scale": [1e-46, 1]}, "invalid-request"),
            ({"key": "a", "outputs": 3, "inputs": 2, "offset": ["1", 2]}, "invalid-request"),
            ({"key": "a", "outputs": 3, "inputs": 2, "offset": [True, 2]}, "invalid-request"),
            ({"key": "a", "labels": ["x" * 257]}, "invalid-request"),
            ({"key": "mix", "outputs": 3}, "expression-invalid"),
            ({"key": "a b", "outputs": 3}, "expression-invalid"),
            ({"key": "a", "outputs": 11}, "shape-mismatch"),
            ({"key": "a", "outputs": 3, "inputs": 65}, "shape-mismatch"),
            ([], "invalid-request"),
            (None, "invalid-request"),
        ],
    )
    def test_bad_registrations(self, http: httpx.Client, body: object, slug: str) -> None:
        problem(http.post("/v1/tasks", json=body), 422, slug)
        assert http.get("/v1/store").json()["sequence"] == 0


class TestInfer:
    def test_one_context(self, http: httpx.Client) -> None:
        register(http)
        body = http.post("/v1/infer", json={"context": "digits", "inputs": [ROW, [0] * 64]}).json()
        assert set(body) == {"sequence", "labels", "probabilities", "confidence"}
        assert body["sequence"] == 1
        np.testing.assert_allclose(np.sum(body["probabilities"], axis=1), 1, rtol=1e-5)
        best = np.argmax(body["probabilities"], axis=1)
        assert body["labels"] == [str(label) for label in best]

    def test_every_form_of_a_context_is_the_same_context(self, http: httpx.Client) -> None:
        register(http, "a")
        register(http, "b")
        forms = [
            "mix(a:0.75,b:0.25)^1.5",
            {"power": {"context": "mix(a:3,b:1)", "exponent": 1.5}},
            {
                "power": {
                    "context": {"mixture": [{"context": {"task": "a"}, "weight": 6}, {"context": "b", "weight": 2}]},
                    "exponent": 1.5,
                }
            },
        ]
        answers = [
            http.post("/v1/infer", json={"context": form, "inputs": [ROW], "return": ["logits"]}).json()["logits"]
            for form in forms
        ]
        np.testing.assert_allclose(answers[0], answers[1], rtol=1e-5)
        np.testing.assert_allclose(answers[0], answers[2], rtol=1e-5)

    def test_a_context_per_row_with_own_widths_and_outputs(self, http: httpx.Client) -> None:
        register(http, "wide")
        register(http, "narrow", labels=["x", "y"], inputs=3)
        register(http, "line", labels=None, outputs=2, inputs=4, loss="mse")
        rows = [("wide", ROW), ("narrow", [1.0, 2.0, 3.0]), ("line", [1, 0, 0, 1]), ("narrow", [0.0, 0.0, 1.0])]
        body = http.post(
            "/v1/infer",
            json={
                "contexts": [context for context, _ in rows],
                "inputs": [row for _, row in rows],
                "return": ["labels", "probabilities", "logits", "values"],
            },
        ).json()
        assert [len(row) for row in body["logits"]] == [10, 2, 2, 2]
        assert body["labels"][2] is None
        assert body["labels"][1] in {"x", "y"}
        assert body["probabilities"][2] is None
        assert [value is None for value in body["values"]] == [True, True, False, True]
        for place, (context, row) in enumerate(rows):
            alone = http.post("/v1/infer", json={"context": context, "inputs": [row], "return": ["logits"]}).json()
            np.testing.assert_allclose(body["logits"][place], alone["logits"][0], rtol=1e-4, atol=1e-5)

    def test_defaults_of_an_mse_task(self, http: httpx.Client) -> None:
        register(http, "line", labels=None, outputs=2, loss="mse")
        body = http.post("/v1/infer", json={"context": "line", "inputs": [ROW]}).json()
        assert set(body) == {"sequence", "values"}
        problem(
            http.post("/v1/infer", json={"context": "line", "inputs": [ROW], "return": ["labels"]}),
            422,
            "invalid-request",
        )

    @pytest.mark.parametrize(
        ("change", "status", "slug"),
        [
            ({"inputs": [[0.0] * 63]}, 422, "shape-mismatch"),
            ({"inputs": [[0.0] * 64, [0.0] * 63]}, 422, "shape-mismatch"),
            ({"inputs": [0.0] * 64}, 422, "shape-mismatch"),
            ({"inputs": [["a"] * 64]}, 422, "shape-mismatch"),
            ({"inputs": [[None] * 64]}, 422, "shape-mismatch"),
            ({"inputs": "x"}, 422, "shape-mismatch"),
            ({"inputs": 5}, 422, "shape-mismatch"),
            ({"inputs": []}, 422, "empty-batch"),
            ({"inputs": [ROW] * 65}, 413, "batch-too-large"),
            ({"context": "nobody"}, 404, "unknown-task"),
            ({"context": "mix(digits:1"}, 422, "expression-invalid"),
            ({"context": {"mixture": []}}, 422, "expression-invalid"),
            ({"context": 5}, 422, "expression-invalid"),
            ({"context": "digits^65"}, 422, "expression-invalid"),
            ({"context": "mix(digits:1,other:1)"}, 422, "composition-not-supported"),
            ({"context": None}, 422, "invalid-request"),
            ({"contexts": ["digits"]}, 422, "invalid-request"),
            ({"context": None, "contexts": ["digits", "digits"]}, 422, "shape-mismatch"),
            ({"context": None, "contexts": []}, 422, "shape-mismatch"),
            ({"context": None, "contexts": "digits"}, 422, "invalid-request"),
            ({"context": None, "contexts": ["digits"], "inputs": 5}, 422, "shape-mismatch"),
            ({"context": None, "contexts": ["digits"], "inputs": None}, 422, "invalid-request"),
            ({"context": None, "contexts": ["digits"], "inputs": {"x": [1, 2]}}, 422, "shape-mismatch"),
            ({"inputs": None}, 422, "invalid-request"),
            ({"records": [{"a": 1}]}, 422, "invalid-request"),
            ({"context": "taught", "inputs": [[3e38, -3e38] * 32]}, 422, "non-finite-input"),
            ({"return": []}, 422, "invalid-request"),
            ({"return": ["everything"]}, 422, "invalid-request"),
            ({"surprise": 1}, 422, "invalid-request"),
        ],
    )
    def test_bad_requests(self, http: httpx.Client, change: dict[str, object], status: int, slug: str) -> None:
        register(http)
        register(http, "other", labels=["x"])
        register(http, "taught", scaling="none")
        http.post("/v1/update", json={"context": "taught", "inputs": [ROW], "targets": ["1"]})
        problem(http.post("/v1/infer", json={"context": "digits", "inputs": [ROW]} | change), status, slug)

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
    def test_numbers_that_are_not_finite(self, http: httpx.Client, number: str) -> None:
        register(http)
        row = ",".join(["0"] * 63 + [number])
        body = f'{{"context": "digits", "inputs": [[{row}]]}}'
        problem(http.post("/v1/infer", content=body, headers=JSON), 422, "non-finite-input")

    @pytest.mark.parametrize("body", ["", "{", "[" * 100_000, '{"context": "digits"', "\xff", "nul", '{"a": 1} x'])
    def test_bodies_that_are_not_json(self, http: httpx.Client, body: str) -> None:
        answer = http.post("/v1/infer", content=body.encode("latin-1"), headers=JSON)
        problem(answer, 422, "invalid-request")

    def test_other_media_types(self, http: httpx.Client) -> None:
        answer = http.post("/v1/infer", content="a=b", headers={"Content-Type": "application/x-www-form-urlencoded"})
        problem(answer, 415, "unsupported-media-type")

    def test_of_duplicate_keys_the_last_wins(self, http: httpx.Client) -> None:
        register(http)
        body = json.dumps({"context": "nobody", "inputs": [ROW]})[:-1] + ', "context": "digits"}'
        assert http.post("/v1/infer", content=body, headers=JSON).status_code == 200


class TestUpdate:
    def test_an_update_learns_and_answers_what_was_before(self, http: httpx.Client) -> None:
        register(http)
        rng = np.random.default_rng(0)
        inputs, targets = rng.normal(size=(32, 64)).tolist(), [str(n % 10) for n in range(32)]
        body = {"context": "digits", "inputs": inputs, "targets": targets}
        before = http.post("/v1/evaluate", json=body).json()
        assert set(before) == {"rows", "loss", "accuracy"}
        first = http.post("/v1/update", json=body | {"steps": 5}).json()
        assert first == {"sequence": 2} | before
        after = http.post("/v1/evaluate", json=body).json()
        assert after["loss"] < before["loss"]
        task = http.get("/v1/tasks/digits").json()
        assert (task["rows_seen"], task["updates"], task["last_sequence"]) == (32, 1, 2)
        assert task["prequential"] == {"accuracy": before["accuracy"], "loss": pytest.approx(before["loss"])}

    def test_rows_of_many_tasks_in_one_update(self, http: httpx.Client) -> None:
        register(http, "a")
        register(http, "b", labels=["x", "y"], inputs=3)
        body = {"contexts": ["a", "b", "a"], "inputs": [ROW, [1, 2, 3], ROW], "targets": ["4", "y", "5"]}
        answer = http.post("/v1/update", json=body).json()
        assert answer["rows"] == 3
        tasks = {task["key"]: task for task in http.get("/v1/tasks").json()["tasks"]}
        assert (tasks["a"]["rows_seen"], tasks["b"]["rows_seen"]) == (2, 1)

    def test_mse_has_no_accuracy(self, http: httpx.Client) -> None:
        register(http, "line", labels=None, outputs=1, loss="mse")
        body = {"context": "line", "inputs": [ROW, ROW], "targets": [1.5, [2]]}
        assert set(http.post("/v1/update", json=body).json()) == {"sequence", "rows", "loss"}

    @pytest.mark.parametrize(
        ("change", "status", "slug"),
        [
            ({"targets": []}, 422, "shape-mismatch"),
            ({"targets": ["0"]}, 422, "shape-mismatch"),
            ({"targets": ["0", "ten"]}, 422, "label-out-of-range"),
            ({"targets": ["0", 10]}, 422, "label-out-of-range"),
            ({"targets": ["0", 1.5]}, 422, "label-out-of-range"),
            ({"targets": ["0", None]}, 422, "label-out-of-range"),
            ({"targets": "00"}, 422, "invalid-request"),
            ({"steps": 0}, 422, "invalid-request"),
            ({"steps": 11}, 413, "batch-too-large"),
            ({"steps": True}, 422, "invalid-request"),
            ({"steps": 1.5}, 422, "invalid-request"),
            ({"context": "line", "targets": [1e30, 0]}, 422, "update-refused"),
            ({"context": "line", "targets": [1.0, "x"]}, 422, "shape-mismatch"),
        ],
    )
    def test_refused_updates_change_nothing(
        self, http: httpx.Client, change: dict[str, object], status: int, slug: str
    ) -> None:
        register(http)
        register(http, "line", labels=None, outputs=1, loss="mse", scaling="none")
        probe = {"context": "digits", "inputs": [ROW], "return": ["logits"]}
        before = http.post("/v1/infer", json=probe).json()
        body = {"context": "digits", "inputs": [ROW, ROW], "targets": ["0", "1"]} | change
        problem(http.post("/v1/update", json=body), status, slug)
        after = http.post("/v1/infer", json=probe).json()
        # What the arithmetic refuses was journalled before it was tried, and so was the refusal.
        used = 2 if slug == "update-refused" else 0
        assert after == before | {"sequence": before["sequence"] + used}


def test_a_model_taken_out_answers_like_the_service(http: httpx.Client) -> None:
    register(http, "a", inputs=5, offset=[1.0] * 5, scale=[2.0] * 5)
    register(http, "b", inputs=5)
    row = [0.1, 0.2, 0.3, 0.4, 0.5]
    for key in "ab":
        http.post("/v1/update", json={"context": key, "inputs": [row, [3, 1, 4, 1, 5]], "targets": ["1", "2"]})
    for context in ("a", "mix(a:0.7,b:0.3)", "a^1.5"):
        answer = http.get("/v1/model", params={"context": context})
        assert answer.headers["content-type"] == "application/octet-stream"
        import torch

        model = RetrievedModel.from_bytes(answer.content)
        served = http.post("/v1/infer", json={"context": context, "inputs": [row], "return": ["logits"]}).json()
        np.testing.assert_allclose(model(torch.tensor([row]))[0], served["logits"][0], rtol=1e-4, atol=1e-5)
    by_json = http.get("/v1/model", params={"context": '{"power": {"context": "a", "exponent": 1.5}}'})
    assert by_json.content == answer.content
    problem(http.get("/v1/model", params={"context": '{"task"'}), 422, "invalid-request")
    problem(http.get("/v1/model", params={"context": "nobody"}), 404, "unknown-task")
    problem(http.get("/v1/model"), 422, "invalid-request")


def test_capacity(http: httpx.Client) -> None:
    assert http.get("/v1/capacity").json() == {"tasks": 0, "layers": []}
    register(http)
    body = {"context": "digits", "inputs": [ROW, [0.1] * 64], "targets": ["0", "1"]}
    http.post("/v1/update", json=body)
    accuracy = http.post("/v1/evaluate", json=body).json()["accuracy"]
    answer = http.get("/v1/capacity").json()
    assert set(answer) == {"tasks", "layers", "mean_accuracy"}
    assert answer["mean_accuracy"] == accuracy
    assert [set(layer) for layer in answer["layers"]] == [{"name", "crosstalk_predicted", "crosstalk_measured"}] * 3


def test_snapshots(http: httpx.Client) -> None:
    [first] = http.get("/v1/snapshots").json()
    facts = {"id", "sequence", "bytes", "sha256", "created", "digest", "chain", "lineage"}
    assert set(first) == facts
    assert first["lineage"] == http.get("/v1/store").json()["journal"]["lineage"]
    register(http)
    taken = http.post("/v1/snapshots").json()
    assert taken["sequence"] == 1
    assert http.get("/v1/snapshots").json() == [first, taken]
    assert http.post("/v1/snapshots").json() == taken


def test_health(http: httpx.Client) -> None:
    assert http.get("/health/live").json() == {"status": "live"}
    assert http.get("/health/ready").json() == {"status": "ready", "role": "leader", "epoch": 1}


def test_http_itself(http: httpx.Client) -> None:
    problem(http.get("/v1/nothing"), 404, "not-found")
    answer = http.put("/v1/store")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET"


def test_request_ids(http: httpx.Client) -> None:
    assert http.get("/health/live", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = {http.get("/v1/nothing", headers={"X-Request-Id": "a b"}).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2


def test_rows_so_large_that_nothing_finite_can_be_said_of_them(http: httpx.Client) -> None:
    """Of any accepted row the store can still be saved, and no answer is null."""
    register(http, "a", inputs=4)
    for size in (1e18, 1e20, 1e30, 1e38):
        rows = {"context": "a", "inputs": [[size, 2, 3, 4]], "targets": ["1"]}
        for route in ("/v1/update", "/v1/evaluate"):
            answer = http.post(route, json=rows)
            assert answer.status_code in {200, 422}
            assert "null" not in answer.text
    assert "null" not in http.get("/v1/capacity").text
    assert http.post("/v1/snapshots").status_code == 200


def test_a_bug_is_a_problem_with_a_request_id(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superposed_service.api.v1.routes.inference.codec.render_answer", lambda *_: 1 / 0)
    register(http)
    answer = http.post("/v1/infer", json={"context": "digits", "inputs": [ROW]}, headers={"X-Request-Id": "bug-7"})
    assert "ZeroDivision" not in problem(answer, 500, "internal")["detail"]
    assert answer.headers["x-request-id"] == "bug-7"


def test_bodies_over_the_limit(http: httpx.Client) -> None:
    big = b'{"context": "' + b"a" * 200_001 + b'"}'
    problem(http.post("/v1/infer", content=big, headers=JSON), 413, "payload-too-large")

    def chunks() -> object:
        for _ in range(30):
            yield b" " * 10_000

    answer = http.post("/v1/infer", content=chunks(), headers=JSON)  # type: ignore[arg-type]
    problem(answer, 413, "payload-too-large")


def test_as_many_contexts_as_rows_at_most(http: httpx.Client) -> None:
    register(http)
    body = {"contexts": ["digits"] * 65, "inputs": [ROW]}
    problem(http.post("/v1/infer", json=body), 413, "batch-too-large")


class TestGroups:
    def test_a_task_declared_as_a_composition(self, http: httpx.Client) -> None:
        register(http, "a")
        register(http, "b")
        labels = [f"d{number}" for number in range(10)]
        both = {"mixture": [{"context": {"task": key}, "weight": 1} for key in ("a", "b")]}
        made = http.post("/v1/tasks", json={"key": "both", "labels": labels, "composition": both})
        assert (made.status_code, made.json()["composition"]) == (201, "mix(a:0.5,b:0.5)")
        asked = {"inputs": [ROW], "return": ["labels", "logits"]}
        own = http.post("/v1/infer", json=asked | {"context": "both"}).json()
        same = http.post("/v1/infer", json=asked | {"context": both}).json()
        assert own["logits"] == same["logits"]
        assert own["labels"][0] == f"d{same['labels'][0]}"
        taught = http.post("/v1/update", json={"context": "both", "inputs": [ROW], "targets": ["d1"]})
        assert taught.status_code == 200, taught.text
        assert http.get("/v1/tasks/both").json()["rows_seen"] == 1
        problem(http.delete("/v1/tasks/a"), 409, "task-in-use")
        wrong = {"key": "more", "labels": labels, "composition": "both^0.5"}
        problem(http.post("/v1/tasks", json=wrong), 422, "composition-not-supported")
        with Client(str(http.base_url)) as client:
            handle = client.task("half", labels=labels, composition=power("a", 0.5))
            handle.partial_fit([ROW], ["d3"])
            assert client.get_task("half").composition == "a^0.5"

    def test_a_group_over_http(self, http: httpx.Client) -> None:
        register(http)
        member = {"key": "u1", "labels": list("0123456789"), "group": "digits", "own_layers": 1}
        assert http.post("/v1/tasks", json=member).json()["own_layers"] == 1
        problem(http.post("/v1/tasks", json=member | {"own_layers": 2}), 409, "task-exists")
        assert http.post("/v1/tasks", json=member | {"key": "u2", "group": "new"}).status_code == 201
        made = http.get("/v1/tasks/new").json()
        assert (made["inputs"], made["labels"], made["group"]) == (64, None, None)
        problem(http.delete("/v1/tasks/digits"), 409, "task-in-use")
        update = {"context": "digits/u1", "inputs": [ROW], "targets": ["3"]}
        assert http.post("/v1/update", json=update).status_code == 200
        assert http.get("/v1/tasks/u1").json()["updates"] == 1
        named, bare = (
            http.post("/v1/infer", json={"context": context, "inputs": [ROW]}).json() for context in ("digits/u1", "u1")
        )
        assert named == bare
        problem(http.post("/v1/infer", json={"context": "u1/digits", "inputs": [ROW]}), 404, "unknown-task")
