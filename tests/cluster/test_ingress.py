"""The ingress in front of two cells: the same HTTP API, and what only a cluster has."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn

from superposed_client import Client, CompositionNotSupported, InvalidRequest, NotFresh, UnknownTask
from superposed_client._core import RetryPolicy
from superposed_service.api.tensors import HEAD_LENGTH
from superposed_service.api.v2 import messages
from superposed_service.cluster.ingress import _ROUTES, Ingress
from superposed_service.cluster.move import move_task
from superposed_service.cluster.task_map import choose_cell
from superposed_service.errors import InvalidRequest as Refused
from tests.conftest import make_directory, serving
from tests.helpers.http import problem

CELLS = ("north", "south")
PATTERNS = {"n-*": "north", "s-*": "south"}
X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int).tolist()


@contextmanager
def in_front_of(urls: dict[str, list[str]]) -> Iterator[str]:
    """An ingress, served by a thread of this process."""
    app = Ingress(urls, PATTERNS, most_bytes=200_000)
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, httpx.Client]]:
    """The servers of two cells, by name, and their ingress, as "" """
    folder = tmp_path_factory.mktemp("cells")
    with ExitStack() as stack:
        made = {
            name: stack.enter_context(serving(make_directory(folder / name, seed=place)))
            for place, name in enumerate(CELLS)
        }
        url = stack.enter_context(in_front_of({name: [str(one.base_url)] for name, one in made.items()}))
        yield made | {"": stack.enter_context(httpx.Client(base_url=url))}


@pytest.fixture
def client(cells: dict[str, httpx.Client]) -> Iterator[Client]:
    with Client(str(cells[""].base_url)) as made:
        yield made


def register(client: Client, *keys: str) -> None:
    for key in keys:
        client.register_task(key, inputs=6, labels=[0, 1])
        client.update(key, X, Y, steps=3)


# What any cell answers for all, and the stream, whose lines are requests of their own.
OTHERS = {"GET /health/live", "GET /v1/keys", "GET /v2", "GET /v2/health/live", "POST /v1/stream"}


def test_each_route_of_a_server_has_its_way_through_the_ingress() -> None:
    described = json.loads((Path(__file__).parents[2] / "docs/openapi.json").read_text())["paths"]
    asked = [(method.upper(), re.sub(r"{\w+}", "x", path)) for path, of in described.items() for method in of]
    rows = [(methods.split(), path) for methods, path, _ in _ROUTES]
    alone = {
        f"{method} {path}"
        for method, path in asked
        if not any(method in methods and own.fullmatch(path) for methods, own in rows)
    }
    assert alone == OTHERS


def test_tasks_are_placed_by_pattern_group_and_hash(cells: dict[str, httpx.Client], client: Client) -> None:
    register(client, "n-1", "s-1", "acme.mood", "acme.intent")
    client.register_task("user", group="s-1", inputs=6, labels=[0, 1])
    where = {key: cells[""].get(f"/v1/tasks/{key}").headers["x-cell"] for key in ("n-1", "s-1", "acme.mood", "user")}
    assert (where["n-1"], where["s-1"], where["user"]) == ("north", "south", "south")
    assert cells[where["acme.mood"]].get("/v1/tasks/acme.intent").is_success
    assert cells["south"].get("/v1/tasks/n-1").status_code == 404
    again = client.register_task("n-1", inputs=6, labels=[0, 1])
    assert again.updates == 1


def test_a_further_cell_takes_only_its_own_share() -> None:
    keys = [f"k{number}" for number in range(3000)]
    before = {key: choose_cell(key, ["a", "b", "c"], {}) for key in keys}
    after = {key: choose_cell(key, ["a", "b", "c", "d"], {}) for key in keys}
    moved = [key for key in keys if before[key] != after[key]]
    assert {after[key] for key in moved} == {"d"}
    assert 600 < len(moved) < 900
    assert all(800 < list(before.values()).count(cell) < 1200 for cell in "abc")


@pytest.mark.parametrize("binary", [True, False])
def test_rows_of_several_cells_are_split_and_joined(
    cells: dict[str, httpx.Client], client: Client, binary: bool
) -> None:
    register(client, "n-2", "s-2", "n-3")
    contexts = ["s-2", "n-2", "n-3", "n-2", "s-2"]
    if binary:
        joined = client.infer(None, X[:5], contexts=contexts, fields=["labels", "logits"])
        labels, logits = list(joined.labels or []), np.asarray(joined.logits)
    else:
        body = {"contexts": contexts, "inputs": X[:5].tolist(), "return": ["labels", "logits"]}
        answer = cells[""].post("/v1/infer", json=body).raise_for_status()
        assert answer.headers["x-sequence"].count(",") == 1
        labels, logits = answer.json()["labels"], np.asarray(answer.json()["logits"])
    for place, context in enumerate(contexts):
        alone = client.infer(context, X[place : place + 1], fields=["labels", "logits"])
        assert alone.labels == [labels[place]]
        np.testing.assert_allclose(np.asarray(alone.logits)[0], logits[place], rtol=1e-4, atol=1e-5)


def test_what_spans_cells_is_refused_with_what_to_do(client: Client) -> None:
    register(client, "n-4", "s-4")
    with pytest.raises(CompositionNotSupported, match="superposed cluster move"):
        client.infer("mix(n-4:0.5,s-4:0.5)", X)
    with pytest.raises(CompositionNotSupported, match="several cells"):
        client.update(None, X[:2], [0, 1], contexts=["n-4", "s-4"])
    with pytest.raises(CompositionNotSupported):
        client.register_task("both", composition="mix(n-4:0.5,s-4:0.5)", outputs=2)
    with pytest.raises(InvalidRequest, match="X-Cell"):
        client.take_snapshot()
    with pytest.raises(UnknownTask):
        client.infer("nowhere", X)


def test_what_is_about_one_store_names_its_cell(cells: dict[str, httpx.Client]) -> None:
    url = str(cells[""].base_url)
    with Client(url, cell="north") as north:
        taken = north.take_snapshot()
        assert taken.lineage == north.store().journal.lineage
    with Client(url, cell="west") as west, pytest.raises(InvalidRequest, match="no such cell"):
        west.store()


def test_listings_and_the_store_are_of_all_cells(cells: dict[str, httpx.Client], client: Client) -> None:
    register(client, *(f"{side}-list{number}" for side in "ns" for number in range(4)))
    listed = [one.key for one in client.list_tasks(prefix="")]
    assert listed == sorted(listed)
    own = [len(cells[name].get("/v1/tasks", params={"limit": 1000}).json()["tasks"]) for name in CELLS]
    assert len(listed) == sum(own) == client.store().tasks
    pages, cursor = list[str](), ""
    while cursor is not None:
        page = cells[""].get("/v1/tasks", params={"limit": 3, "cursor": cursor}).raise_for_status().json()
        pages, cursor = pages + [one["key"] for one in page["tasks"]], page["next_cursor"]
        assert len(page["tasks"]) <= 3
    assert pages == listed
    assert client.capacity().tasks == max(own)


def test_answers_can_be_read_whatever_encodings_the_client_takes(cells: dict[str, httpx.Client]) -> None:
    for path in ("/console", "/openapi.json", "/v1/store", "/metrics"):
        plain, taken = (
            cells[""].get(path, headers={"Accept-Encoding": taken}) for taken in ("identity", "gzip, deflate, br")
        )
        assert taken.is_success
        assert len(taken.headers.get_list("date")) == 1
        assert taken.text.isprintable() or "\n" in taken.text
        assert path in {"/v1/store", "/metrics"} or taken.text == plain.text


def test_metrics_have_the_cell_of_each_sample(cells: dict[str, httpx.Client]) -> None:
    text = cells[""].get("/metrics").raise_for_status().text
    samples = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert samples
    assert all('{cell="north"' in line or '{cell="south"' in line for line in samples)
    described = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(described) == len(set(described))


def test_the_search_for_a_context_is_over_all_cells(client: Client) -> None:
    rows = X[:8] + 3.0
    client.register_task("n-found", inputs=6, labels=[0, 1])
    client.update("n-found", rows, [1] * 8, steps=10)
    found = client.locate(rows)
    assert {one.context.partition("-")[0] for one in found.scores} >= {"n", "s"}
    assert sum(one.probability for one in found.scores) == pytest.approx(1.0)
    assert [one.evidence for one in found.scores] == sorted((one.evidence for one in found.scores), reverse=True)
    answered = client.infer("auto", rows)
    assert answered.located is not None
    assert answered.located.context == found.best


def test_tokens_are_a_set(cells: dict[str, httpx.Client], client: Client) -> None:
    register(client, "n-5", "s-5")
    assert len(client._servers._tokens) == 2
    tokens = ",".join(client._servers._tokens.values())
    assert cells[""].get("/v1/tasks/n-5", headers={"X-Min-Sequence": tokens}).is_success
    lineage, epoch, sequence = next(one for one in tokens.split(",")).split(".")
    newer = f"{lineage}.{epoch}.{int(sequence) + 1000}"
    place = "n-5" if cells["north"].get("/v1/store").json()["journal"]["lineage"] == lineage else "s-5"
    with Client(str(cells[""].base_url), retries=RetryPolicy(retries=0)) as asking:
        asking._servers._tokens = {lineage: newer}
        with pytest.raises(NotFresh):
            asking.get_task(place)


def test_a_stream_of_lines_goes_to_several_cells_in_order(cells: dict[str, httpx.Client], client: Client) -> None:
    register(client, "n-6", "s-6")
    lines = [
        {
            "id": f"line-{number}",
            "update": {"context": f"{'ns'[number % 2]}-6", "inputs": X[:2].tolist(), "targets": Y[:2]},
        }
        for number in range(6)
    ]
    lines.append({"id": "asks", "infer": {"context": "n-6", "inputs": X[:1].tolist()}})
    lines.append({"id": "wrong", "update": {"context": "n-6", "inputs": [[1.0]], "targets": [0]}})
    for _ in range(2):  # the second time by the same ids
        answers = client.stream(lines)
        assert [one["id"] for one in answers] == [line["id"] for line in lines]
        assert all("answer" in one for one in answers[:-1])
        assert answers[-1]["problem"]["status"] == 422
    assert [client.get_task(key).updates for key in ("n-6", "s-6")] == [4, 4]
    broken = cells[""].post("/v1/stream", content=b"{not json}\n", headers={"Content-Type": "application/x-ndjson"})
    assert json.loads(broken.text)["problem"]["status"] == 422


def test_events_of_all_cells_have_one_id(cells: dict[str, httpx.Client], client: Client) -> None:
    register(client, "n-7", "s-7")
    seen: list[str] = []
    with cells[""].stream("GET", "/v1/events", params={"after": 0}, timeout=20) as answer:
        lines = answer.iter_lines()
        while not (seen and all(f"{name}=" in seen[-1] for name in CELLS)):
            line = next(lines)
            seen += [line] if line.startswith("id: ") else []
    token = seen[-1].removeprefix("id: ")
    client.update("s-7", X[:2], Y[:2])
    with cells[""].stream("GET", "/v1/events", headers={"Last-Event-ID": token}, timeout=20) as answer:
        kinds = (line for line in answer.iter_lines() if line.startswith("event: ") and "load" not in line)
        assert next(kinds) == "event: update"


def test_bodies_that_are_too_large_or_broken_are_refused(cells: dict[str, httpx.Client]) -> None:
    problem(cells[""].post("/v1/infer", content=b"x" * 250_000), 413, "payload-too-large")
    problem(cells[""].post("/v1/infer", content=b"{"), 422, "invalid-request")
    problem(cells[""].post("/v1/infer", json=[1]), 422, "invalid-request")
    problem(cells[""].post("/v1/infer", json={"context": "a b", "inputs": [[1]]}), 422, "expression-invalid")
    assert cells[""].get("/v1/nothing").status_code == 404


def test_an_api_key_is_the_same_in_all_cells(tmp_path: Path) -> None:
    with ExitStack() as stack:
        made = {
            name: stack.enter_context(serving(make_directory(tmp_path / name, seed=place)))
            for place, name in enumerate(CELLS)
        }
        url = stack.enter_context(in_front_of({name: [str(one.base_url)] for name, one in made.items()}))
        with Client(url) as nobody:
            admin = nobody.keys.create(scope="admin")
        with Client(url, api_key=admin.key) as owner:
            tenant = owner.keys.create(scope="update", tasks="n-*")
            with Client(url, api_key=tenant.key) as own:
                register(own, "n-1")
            register(owner, "s-1")
            rotated = owner.keys.rotate(tenant.id)
            assert rotated.key != tenant.key
            for name, one in made.items():
                assert one.get("/v1/tasks", headers={"Authorization": f"Bearer {rotated.key}"}).is_success, name
            owner.keys.revoke(tenant.id)
        for one in made.values():
            assert one.get("/v1/tasks", headers={"Authorization": f"Bearer {rotated.key}"}).status_code == 401
        with httpx.Client(base_url=url) as stranger:
            problem(stranger.get("/v1/tasks/n-1"), 401, "unauthenticated")


def test_a_task_is_moved_while_it_is_taught(cells: dict[str, httpx.Client], client: Client) -> None:
    url = str(cells[""].base_url)
    register(client, "n-moves")
    for _ in range(10):
        client.update("n-moves", X, Y, steps=3)
    before = client.evaluate("n-moves", X, Y).accuracy
    sent, stopping = [11], threading.Event()

    def teach() -> None:
        with Client(url, retries=RetryPolicy(retries=20)) as own:
            while not stopping.is_set():
                own.update("n-moves", X[:8], Y[:8])
                sent[0] += 1

    thread = threading.Thread(target=teach)
    thread.start()
    told: list[str] = []
    try:
        moved = move_task(url, "n-moves", "north", "south", progress=told.append, enough=0.5)
    finally:
        stopping.set()
        thread.join()
    assert moved.agreement is not None
    assert told
    assert cells[""].get("/v1/tasks/n-moves").headers["x-cell"] == "south"
    assert cells["north"].get("/v1/tasks/n-moves").status_code == 404
    assert client.get_task("n-moves").updates == sent[0]
    assert not client.get_task("n-moves").standby
    assert client.evaluate("n-moves", X, Y).accuracy >= (before or 0) - 0.05


def test_a_move_is_taken_up_again_and_repeats_are_learned_once(cells: dict[str, httpx.Client]) -> None:
    url = str(cells[""].base_url)
    with Client(url) as plain, Client(url, cell="south") as south:
        register(plain, "n-again")
        update = {"context": "n-again", "inputs": X[:4].tolist(), "targets": Y[:4]}
        once = {"Idempotency-Key": "sent-twice"}
        cells[""].post("/v1/update", json=update, headers=once).raise_for_status()
        south.register_task("n-again", inputs=6, labels=[0, 1], standby=True)  # an attempt that broke off here
        assert cells[""].get("/v1/tasks/n-again").headers["x-cell"] == "north"
        assert [one.key for one in plain.list_tasks()].count("n-again") == 1
        move_task(url, "n-again", "north", "south", progress=lambda _: None)
        taught = south.get_task("n-again").updates
        cells[""].post("/v1/update", json=update, headers=once).raise_for_status()
        assert south.get_task("n-again").updates == taught
        south.alter_task("n-again", standby=True)  # as where the last step is missing
        with Client(url, retries=RetryPolicy(retries=0)) as asking:
            asking.infer("n-again", X)  # it answers
        move_task(url, "n-again", "north", "south", progress=lambda _: None)
        plain.update("n-again", X[:4], Y[:4])
        plain.register_task("member", group="n-again", inputs=6, labels=[0, 1])
        with pytest.raises(Refused, match="in a group"):
            move_task(url, "member", "south", "north", progress=lambda _: None)


def test_rows_of_a_task_come_back_as_they_were_sent(http: httpx.Client) -> None:
    http.post("/v1/tasks", json={"key": "a", "inputs": 6, "labels": ["x", "y"]}).raise_for_status()
    http.post("/v1/tasks", json={"key": "b", "inputs": 6, "labels": ["x", "y"]}).raise_for_status()
    names = [["x", "y"][one] for one in Y]
    sent = {"context": "a", "inputs": X[:3].tolist(), "targets": names[:3], "sample_weight": [1.0, 2.0, 0.5]}
    http.post("/v1/update", json=sent, headers={"Idempotency-Key": "k"}).raise_for_status()
    mixed = {"contexts": ["b", "a", "b"], "inputs": X[3:6].tolist(), "targets": names[3:6], "steps": 2}
    http.post("/v1/update", json=mixed).raise_for_status()
    first, second = http.get("/v1/tasks/a/data").raise_for_status().json()
    assert (first["targets"], first["sample_weight"], first["origin"][0]) == (names[:3], [1.0, 2.0, 0.5], "k")
    np.testing.assert_array_equal(np.asarray(first["inputs"], dtype=np.float32), X[:3])
    assert (second["targets"], second["steps"]) == (names[4:5], 2)
    assert http.get("/v1/tasks/a/data", params={"after": second["sequence"]}).json() == []
    http.delete("/v1/tasks/a/data").raise_for_status()
    assert http.get("/v1/tasks/a/data").json() == []
    problem(http.get("/v1/tasks/c/data"), 404, "unknown-task")


def test_a_composition_is_registered_where_its_tasks_are(cells: dict[str, httpx.Client], client: Client) -> None:
    register(client, "s-8", "s-9")
    for number in range(6):  # the hash alone would put some of them elsewhere
        key = f"both{number}"
        client.register_task(key, composition="mix(s-8:0.5,s-9:0.5)", outputs=2, inputs=6)
        assert cells[""].get(f"/v1/tasks/{key}").headers["x-cell"] == "south"
    body = {"contexts": [{"task": "s-8"}, "n-1", {"power": {"context": "s-8", "exponent": 0.5}}]}
    register(client, "n-1")
    joined = cells[""].post("/v1/infer", json=body | {"inputs": X[:3].tolist()}).raise_for_status().json()
    assert len(joined["labels"]) == 3
    model = "mix(s-8:0.5,s-9:0.5)"
    assert cells[""].get(f"/v2/models/{model}").raise_for_status().json()["name"] == model


def test_a_page_of_another_site_changes_nothing(cells: dict[str, httpx.Client]) -> None:
    own = {"Origin": str(cells[""].base_url).rstrip("/")}
    body = {"key": "n-site", "inputs": 2, "outputs": 2}
    problem(cells[""].post("/v1/tasks", json=body, headers={"Origin": "http://evil.example"}), 403, "forbidden")
    assert cells[""].post("/v1/tasks", json=body, headers=own).is_success


def test_a_line_without_end_is_refused(cells: dict[str, httpx.Client]) -> None:
    answer = cells[""].post("/v1/stream", content=b"x" * 250_000)
    assert json.loads(answer.text.splitlines()[-1])["problem"]["status"] == 413


@pytest.mark.parametrize("inputs", [X[:1].tolist(), X[:3].tolist(), 7, []])
def test_rows_and_contexts_of_several_cells_are_as_many(
    cells: dict[str, httpx.Client], client: Client, inputs: object
) -> None:
    register(client, "n-10", "s-10")
    answer = cells[""].post("/v1/infer", json={"contexts": ["n-10", "s-10"], "inputs": inputs})
    problem(answer, 422, "shape-mismatch")


def test_an_update_finds_no_context_by_itself(cells: dict[str, httpx.Client]) -> None:
    body = {"context": "auto", "inputs": X[:2].tolist(), "targets": Y[:2]}
    problem(cells[""].post("/v1/update", json=body), 422, "expression-invalid")


def test_a_head_is_as_its_get(cells: dict[str, httpx.Client], client: Client) -> None:
    register(client, "n-11", "s-11")
    for path in ("/v1/tasks/n-11", "/v1/tasks/s-11", "/v1/tasks"):
        answer = cells[""].head(path)
        assert (answer.status_code, answer.content) == (200, b""), path


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("wanted", [[], ["logits", "classes"]])
def test_model_rows_of_several_cells_are_split_and_joined(
    cells: dict[str, httpx.Client], client: Client, binary: bool, wanted: list[str]
) -> None:
    register(client, "n-12", "s-12")
    client.register_task("s-wide", inputs=6, outputs=3)  # without labels
    contexts = ["s-12", "n-12", "s-wide", "n-12"]

    def asked(names: list[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        given = [
            messages.Column("input", rows, binary),
            messages.Column("context", np.array([name.encode() for name in names], dtype=object), binary),
        ]
        how = {"outputs": [{"name": name} for name in wanted], "parameters": {"binary_data_output": binary}}
        body, length = messages.dump_tensors({"id": "mine", **how}, "inputs", given)
        headers = {HEAD_LENGTH: str(length)} if length else {}
        answer = cells[""].post(f"/v2/models/{names[0]}/infer", content=body, headers=headers).raise_for_status()
        head, found = messages.read_tensors(answer.content, answer.headers.get(HEAD_LENGTH), "outputs")
        assert (head["id"], head["model_name"], HEAD_LENGTH in answer.headers) == ("mine", names[0], binary)
        return found

    joined = asked(contexts, X[:4])
    assert list(joined) == (wanted or ["probabilities", "classes", "logits"])
    for place, name in enumerate(contexts):
        for output, numbers in asked([name], X[place : place + 1]).items():
            if output in joined:
                one = joined[output][place]
                expected = numbers[0] if one.ndim == 0 else np.pad(numbers[0], (0, 3 - numbers.shape[1]))
                np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)


def test_wrong_model_rows_are_refused(cells: dict[str, httpx.Client], client: Client) -> None:
    register(client, "n-13", "s-13")

    def ask(**body: object) -> httpx.Response:
        context = {"name": "context", "datatype": "BYTES", "shape": [2], "data": ["n-13", "s-13"]}
        rows = {"name": "input", "datatype": "FP32", "shape": [2, 6], "data": X[:2].ravel().tolist()}
        return cells[""].post("/v2/models/n-13/infer", json={"inputs": [context, rows | body]})

    assert ask().is_success
    too_few = X[:1].ravel().tolist()
    for wrong, said in (
        ({"shape": [1, 6], "data": too_few}, "as many rows as contexts"),
        ({"shape": [2, 5], "data": X[:2, :5].ravel().tolist()}, "6"),
        ({"name": "other"}, "not a model's"),
        ({"data": too_few}, "do not match"),
    ):
        answer = ask(**wrong)
        assert answer.status_code in {400, 422}, answer.text
        assert said in answer.json()["error"]
    assert cells[""].post("/v2/models/n-13/infer", json={"inputs": 7}).status_code == 422
    raw = cells[""].post("/v2/models/s-13/infer", content=X[:2].tobytes(), headers={HEAD_LENGTH: "0"})
    assert raw.is_success


def test_tasks_of_several_cells_do_not_interfere(client: Client) -> None:
    keys = ["n-14", "s-14", "n-15", "s-15", "n-16"]
    register(client, *keys)
    found = client.interference(keys)
    north, south = client.interference(keys[::2]), client.interference(keys[1::2])
    assert found.tasks == keys
    for name in ("overlap", "crosstalk"):
        whole = np.zeros((5, 5))
        whole[np.ix_([0, 2, 4], [0, 2, 4])] = getattr(north, name)
        whole[np.ix_([1, 3], [1, 3])] = getattr(south, name)
        assert getattr(found, name) == whole.tolist()
    np.testing.assert_allclose(client.interference(["n-14", "s-14"]).overlap, np.eye(2))
    with pytest.raises(UnknownTask):
        client.interference(["n-14", "s-14", "nowhere"])


@pytest.mark.parametrize("path", ["/v1/model", "/v1/interference", "/v1/interference?tasks="])
def test_a_query_without_what_it_asks_about_is_refused(cells: dict[str, httpx.Client], path: str) -> None:
    answer, own = cells[""].get(path), cells["north"].get(path)
    assert answer.status_code == own.status_code
    assert answer.json()["type"] == own.json()["type"]


ODD: list[object] = [
    {}, [], 7, "text", None, {"context": None}, {"contexts": []}, {"contexts": [], "inputs": []}, {"contexts": [None]},
    {"contexts": 7, "inputs": [[1] * 6]}, {"context": [], "inputs": [[1] * 6]}, {"context": {}, "inputs": [[1] * 6]},
    {"context": {"mix": 7}, "inputs": [[1] * 6]}, {"context": "mix(", "inputs": [[1] * 6]}, {"key": None}, {"key": 7},
    {"key": "", "inputs": 6}, {"key": "n-x", "group": 7}, {"key": "n-x", "composition": 7, "outputs": 2},
    {"key": "n-x", "composition": {"mix": []}}, {"without": None}, {"without": 7}, {"without": {"task": 7}},
    {"source": None}, {"source": 7}, {"candidates": 7, "inputs": [[1] * 6]}, {"candidates": [7], "inputs": [[1] * 6]},
    {"exponent_of": 7, "inputs": [[1] * 6]}, {"inputs": [{"name": "context"}]}, {"inputs": [7]}, {"inputs": None},
    {"inputs": [{"name": "context", "datatype": "BYTES", "shape": [0], "data": []}]}, {"id": 7}, {"given": 7},
    {"context": "auto", "inputs": None}, {"context": "auto", "inputs": []}, {"contexts": ["auto"], "inputs": [[1] * 6]},
]  # fmt: skip


@pytest.mark.parametrize(
    "path",
    ["/v1/infer", "/v1/update", "/v1/evaluate", "/v1/locate", "/v1/tasks", "/v1/rollback", "/v1/quarantine", "/v1/keys",
     "/v2/models/n-20/infer"],
)  # fmt: skip
def test_what_a_server_refuses_the_ingress_refuses(cells: dict[str, httpx.Client], client: Client, path: str) -> None:
    register(client, "n-20")
    for body in ODD:
        answers = [http.post(path, content=json.dumps(body)) for http in (cells[""], cells["north"])]
        assert answers[1].is_client_error, (body, answers[1].text)
        assert answers[0].is_client_error, (body, answers[0].text)


def test_what_is_null_is_as_if_it_were_not_there(cells: dict[str, httpx.Client], client: Client) -> None:
    register(client, "n-21", "s-21")
    body = {"contexts": ["n-21", "s-21"], "context": None, "inputs": X[:2].tolist(), "texts": None, "records": None}
    assert len(cells[""].post("/v1/infer", json=body).raise_for_status().json()["labels"]) == 2
    rows = {"context": "auto", "inputs": X[:2].tolist(), "texts": None}
    assert len(cells[""].post("/v1/infer", json=rows).raise_for_status().json()["labels"]) == 2
