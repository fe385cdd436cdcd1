"""Texts: taught and asked as they are, over every protocol; what they cost, what is kept, what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from demo.server_process import Server, free_port
from superposed.config import EncoderConfig, StoreConfig
from superposed.encoders import HashEncoder, describe
from superposed_client import AsyncClient, Client
from superposed_client import EncoderUnavailable as ClientEncoderUnavailable
from superposed_service.changes.rows import unpack
from superposed_service.storage import DataDirectory
from superposed_service.storage.journal import Record
from tests.conftest import make_directory, serving, start_anew
from tests.helpers.api_keys import make
from tests.helpers.http import problem

WIDTH = 64
TEXTS = ["my card was declined", "what is my balance", "book me a flight to rome", "is the train late"]
LABELS = ["card", "balance", "flight", "train"]
SECRET_WORD = "xylophone-of-the-customer"
PORT = free_port()
# What one embedding takes up in the cache: its numbers, and what surrounds them.
ENTRY_BYTES = 4 * WIDTH + 700


def config(**encoders: str) -> StoreConfig:
    specs = encoders or {"texts": f"hash:{WIDTH}"}
    return StoreConfig.of_preset(
        "general",
        {
            "network": {"inputs": 100, "hidden": (32,), "outputs": 8, "expansion": 2},
            "encoders": {name: describe(spec, Path("/nowhere")) for name, spec in specs.items()},
        },
    )


def store(path: Path, **encoders: str) -> Path:
    return make_directory(path, config(**encoders))


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = store(tmp_path_factory.mktemp("texts") / "store")
    with serving(path, grpc_address=f"127.0.0.1:{PORT}") as client:
        register(client, "acme")
        teach(client, "acme", times=8)
        yield client


def register(http: httpx.Client, key: str, **more: Any) -> dict[str, Any]:
    body = {"key": key, "labels": LABELS, "kind": "texts"} | more
    answer = http.post("/v1/tasks", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def teach(http: httpx.Client, key: str, texts: list[str] = TEXTS, *, times: int = 1, **headers: str) -> Any:
    body = {"context": key, "texts": texts, "targets": LABELS[: len(texts)]}
    for _ in range(times):
        answer = http.post("/v1/update", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
    return answer.json()


def logits(http: httpx.Client, **body: Any) -> np.ndarray:
    answer = http.post("/v1/infer", json={"context": "acme", "return": ["logits"]} | body)
    assert answer.status_code == 200, answer.text
    return np.asarray(answer.json()["logits"])


def test_a_text_task_has_its_encoders_width_and_learns(http: httpx.Client) -> None:
    task = http.get("/v1/tasks/acme").json()
    assert (task["kind"], task["encoder"], task["inputs"]) == ("texts", "texts", WIDTH)
    assert http.post("/v1/infer", json={"context": "acme", "texts": TEXTS}).json()["labels"] == LABELS
    shown = http.get("/v1/store").json()["encoders"]["texts"]
    assert (shown["spec"], shown["status"]) == (f"hash:{WIDTH}", "ready")


@pytest.fixture
def expected(http: httpx.Client) -> np.ndarray:
    """Return the logits of the texts whose vectors are sent as rows."""
    return logits(http, inputs=HashEncoder(WIDTH).encode(TEXTS).tolist())


class TestEqualAnswers:
    """`texts` is the same as their vectors sent as rows, whatever they come over."""

    def test_json(self, http: httpx.Client, expected: np.ndarray) -> None:
        np.testing.assert_array_equal(logits(http, texts=TEXTS), expected)
        np.testing.assert_array_equal(logits(http, texts=TEXTS, context=None, contexts=["acme"] * 4), expected)

    def test_binary_answers(self, http: httpx.Client, expected: np.ndarray) -> None:
        headers = {"Accept": "application/vnd.superposed.tensors"}
        body = {"context": "acme", "texts": TEXTS, "return": ["logits"]}
        answer = http.post("/v1/infer", json=body, headers=headers)
        head = int(answer.headers["inference-header-content-length"])
        np.testing.assert_array_equal(np.frombuffer(answer.content[head:], "<f4").reshape(4, 4), expected.astype("f4"))

    @pytest.mark.parametrize("binary", [False, True])
    @pytest.mark.parametrize("shape", [[4], [4, 1]])
    def test_v2_over_rest(self, http: httpx.Client, expected: np.ndarray, binary: bool, shape: list[int]) -> None:
        with triton_http.InferenceServerClient(f"{http.base_url.host}:{http.base_url.port}") as client:
            described = client.get_model_metadata("acme")["inputs"][0]
            assert (described["datatype"], described["shape"]) == ("BYTES", [-1])
            given = triton_http.InferInput("input", shape, "BYTES")
            given.set_data_from_numpy(np.asarray(TEXTS, dtype=object).reshape(shape), binary_data=binary)
            found = client.infer("acme", [given])
            np.testing.assert_array_equal(found.as_numpy("logits"), expected.astype("f4"))
            assert [one.decode() for one in found.as_numpy("labels")] == LABELS

    @pytest.mark.parametrize("raw", [True, False])
    def test_v2_over_grpc(self, http: httpx.Client, expected: np.ndarray, raw: bool) -> None:
        given = triton_grpc.InferInput("input", [4], "BYTES")
        given.set_data_from_numpy(np.asarray(TEXTS, dtype=object))
        if not raw:
            tensor = given._get_tensor()
            tensor.contents.bytes_contents.extend(text.encode() for text in TEXTS)
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{PORT}") as client:
            found = client.infer("acme", [given])
        np.testing.assert_array_equal(found.as_numpy("logits"), expected.astype("f4"))

    def test_the_sdk(self, http: httpx.Client, expected: np.ndarray) -> None:
        with Client(str(http.base_url)) as client:
            found = client.infer("acme", TEXTS, fields=["logits"])
            np.testing.assert_array_equal(found.logits, expected)
            for given in (TEXTS, tuple(TEXTS), np.asarray(TEXTS), np.asarray(TEXTS, dtype=object)):
                assert client.task("acme").predict(given).tolist() == LABELS

        async def asked() -> Any:
            async with AsyncClient(str(http.base_url)) as client:
                assert (await client.task("acme").predict(TEXTS)).tolist() == LABELS
                return (await client.infer("acme", TEXTS, fields=["logits"])).logits

        np.testing.assert_array_equal(asyncio.run(asked()), expected)

    def test_located_and_answered_by_itself(self, http: httpx.Client) -> None:
        with Client(str(http.base_url)) as client:
            register(http, "other")
            teach(http, "other", [f"other words {n}" for n in range(4)], times=6)
            vectors = HashEncoder(WIDTH).encode(TEXTS)
            assert client.locate(TEXTS) == client.locate(vectors)
            assert client.locate(TEXTS, LABELS, candidates=["acme", "other"]).best == "acme"
            answer = client.infer("auto", TEXTS)
            assert answer.located is not None
            assert (answer.located.context, answer.labels) == ("acme", LABELS)

    def test_evaluated(self, http: httpx.Client) -> None:
        with Client(str(http.base_url)) as client:
            assert client.evaluate("acme", TEXTS, LABELS) == client.evaluate(
                "acme", HashEncoder(WIDTH).encode(TEXTS), LABELS
            )


class TestHandle:
    def test_kind_is_told_by_the_first_rows(self, http: httpx.Client) -> None:
        with Client(str(http.base_url)) as client:
            task = client.task("shop", labels=LABELS, group="support")
            for _ in range(5):
                task.partial_fit(TEXTS, LABELS)
            assert client.get_task("shop").kind == client.get_task("support").kind == "texts"
            task.fit(TEXTS * 4, LABELS * 4, batch_size=8, seed=0)
            assert task.score(TEXTS, LABELS) == 1.0
            # A new member answers like the group, in words too.
            assert client.task("shop2", labels=LABELS, group="support").predict(TEXTS).tolist() == LABELS

    def test_rows_and_texts_share_a_store(self, http: httpx.Client) -> None:
        with Client(str(http.base_url)) as client:
            table = client.task("table", labels=["a", "b"])
            table.partial_fit([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], ["a", "b"])
            register(http, "mixed")
            answer = http.post(
                "/v1/infer", json={"contexts": ["acme", "mixed"], "texts": TEXTS[:2], "return": ["labels"]}
            )
            assert answer.json()["labels"][0] == "card"

    @pytest.mark.parametrize("given", ["one text", b"bytes", ["a", 3], [b"a", "b"]])
    def test_what_is_no_list_of_texts_is_said_before_anything_is_sent(self, http: httpx.Client, given: Any) -> None:
        with Client(str(http.base_url)) as client, pytest.raises(ValueError, match=r"wrap it in a list|row 1"):
            client.task("never", labels=LABELS).partial_fit(given, ["card"] * len(given))
        assert http.get("/v1/tasks/never").status_code == 404


class TestRefusals:
    """A clear error each; nothing is learned, and nothing registered."""

    @pytest.mark.parametrize(
        ("body", "status", "reason"),
        [
            ({"context": "acme", "texts": ["x" * 70_000]}, 422, "too long"),
            ({"context": "acme", "texts": ["a", 3]}, 422, "text 1 is no text"),
            ({"context": "acme", "texts": [None]}, 422, "text 0 is no text"),
            ({"context": "acme", "texts": []}, 422, "without rows"),
            ({"context": "acme", "texts": "a"}, 422, "texts"),
            ({"context": "acme", "texts": ["a"], "inputs": [[0.0] * WIDTH]}, 422, "exactly one"),
            ({"context": "acme", "texts": ["a"] * 65}, 413, "64 at most"),
            ({"context": "acme", "images": ["aGVsbG8="]}, 422, "takes texts, not images"),
            ({"context": "acme", "records": [{"a": 1}]}, 422, "not records"),
            ({"context": "numbers", "texts": ["a"]}, 422, "takes rows, not texts"),
            ({"contexts": ["acme", "numbers"], "texts": ["a", "b"]}, 422, "takes rows, not texts"),
            ({"context": "acme", "inputs": [[0.0] * 100]}, 422, f"{WIDTH} features"),
            ({"context": "nobody", "texts": ["a"]}, 404, "no task"),
            ({"contexts": ["acme"], "texts": ["a", "b"]}, 422, "differ in number"),
            ({"contexts": ["acme"] * 3, "texts": ["a", "b"]}, 422, "differ in number"),
            ({"contexts": [], "texts": ["a"]}, 422, "differ in number"),
        ],
    )
    @pytest.mark.parametrize("route", ["infer", "update", "evaluate"])
    def test_bad_texts(self, http: httpx.Client, route: str, body: dict[str, Any], status: int, reason: str) -> None:
        if http.get("/v1/tasks/numbers").status_code == 404:
            http.post("/v1/tasks", json={"key": "numbers", "labels": LABELS, "inputs": 5})
        before = http.get("/v1/store").json()["sequence"]
        asked = body if route == "infer" else body | {"targets": ["card"] * len(body.get("texts") or [0])}
        answer = http.post(f"/v1/{route}", json=asked)
        assert answer.status_code == status, answer.text
        assert reason in answer.text
        assert "xxxx" not in answer.text
        assert http.get("/v1/store").json()["sequence"] == before

    @pytest.mark.parametrize(
        ("schema", "reason"),
        [
            ({"kind": "images"}, "no encoder of images"),
            ({"kind": "texts", "encoder": "other"}, "which encoder"),
            ({"kind": "texts", "inputs": 5}, "tasks of encoder texts have its width"),
            ({"kind": "rows", "encoder": "texts"}, "name an encoder"),
            ({"kind": "rows", "abstain": 0.1}, "can abstain"),
            ({"kind": "texts", "abstain": 0.1, "keep_rows": False}, "needs kept rows"),
            ({"kind": "texts", "abstain": 0.0}, "abstain"),
            ({"kind": "sounds"}, "kind"),
        ],
    )
    def test_bad_registrations(self, http: httpx.Client, schema: dict[str, Any], reason: str) -> None:
        answer = http.post("/v1/tasks", json={"key": "never", "labels": LABELS} | schema)
        assert answer.status_code == 422
        assert reason in answer.text
        assert http.get("/v1/tasks/never").status_code == 404

    def test_the_kind_of_a_task_stays(self, http: httpx.Client) -> None:
        body = {"key": "acme", "labels": LABELS, "kind": "rows", "inputs": WIDTH}
        assert problem(http.post("/v1/tasks", json=body), 409, "task-exists")


class TestKeptOriginals:
    """The journal holds vectors; texts only where a setting says so, and only until they are erased."""

    @pytest.mark.parametrize("kept", [False, True])
    def test_replay_rollback_and_erasure(self, tmp_path: Path, kept: bool) -> None:
        path = store(tmp_path / "store")
        with serving(path, keep_originals=kept) as http:
            register(http, "acme")
            teach(http, "acme", times=3)
            first = http.get("/v1/store").json()["sequence"]
            teach(http, "acme", [*TEXTS[:3], SECRET_WORD])
            taught = logits(http, texts=TEXTS)
        assert (SECRET_WORD.encode() in written(path)) == kept
        assert [self.originals(record) for record in updates(path)][-1] == ([*TEXTS[:3], SECRET_WORD] if kept else None)
        with serving(path, keep_originals=kept) as http:  # replayed
            np.testing.assert_array_equal(logits(http, texts=TEXTS), taught)
            http.post("/v1/rollback", json={"to_sequence": first})
            assert not np.array_equal(logits(http, texts=TEXTS), taught)
            teach(http, "acme", [*TEXTS[:3], SECRET_WORD])
            assert http.delete("/v1/tasks/acme/data").status_code == 200
        assert SECRET_WORD.encode() not in written(path)
        with serving(path) as http:
            assert http.post("/v1/infer", json={"context": "acme", "texts": TEXTS}).status_code == 200

    @staticmethod
    def originals(record: Record) -> list[str] | None:
        assert record.payload is not None
        arrays = unpack(record.payload)
        if "originals" not in arrays:
            return None
        ends = np.cumsum(arrays["original_bytes"], dtype=np.int64)
        data = arrays["originals"].tobytes()
        return [data[end - size : end].decode() for end, size in zip(ends, arrays["original_bytes"], strict=True)]

    @pytest.mark.parametrize("kept", ["true", "false"])
    def test_a_killed_server_comes_back_with_every_acknowledged_update(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
    ) -> None:
        """Groups, rehearsal and growing labels beside it; the embedding cache starts empty."""
        monkeypatch.setenv("SUPERPOSED_KEEP_ORIGINALS", kept)
        path = store(tmp_path / "store")
        with Server(path) as server, server.client() as client:
            for number in range(6):
                member = client.task(f"member{number % 3}", labels=LABELS, group="team", grow_labels=True)
                member.partial_fit([f"{text} {number}" for text in TEXTS], [*LABELS[:3], f"new{number % 2}"])
            expected = client.infer("member1", TEXTS, fields=["logits"]).logits
            server.kill()
        with Server(path) as server, server.client() as client:
            assert [client.get_task(f"member{n}").updates for n in range(3)] == [2, 2, 2]
            assert client.infer("member1", TEXTS, fields=["logits"]).logits == expected
            client.task("member1").partial_fit(TEXTS, LABELS)

    def test_a_request_sent_twice_is_learned_once(self, tmp_path: Path) -> None:
        with serving(store(tmp_path / "store")) as http:
            register(http, "acme")
            body = {"context": "acme", "texts": TEXTS, "targets": LABELS}
            first, again = (
                http.post("/v1/update", json=body, headers={"Idempotency-Key": "k"}).json() for _ in range(2)
            )
            assert first == again
            assert http.get("/v1/tasks/acme").json()["updates"] == 1
            other = body | {"texts": [*TEXTS[:3], "another"]}
            answer = http.post("/v1/update", json=other, headers={"Idempotency-Key": "k"})
            problem(answer, 422, "idempotency-mismatch")

    def test_texts_are_in_no_event_log_line_or_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        heard: list[str] = []
        monkeypatch.setenv("SUPERPOSED_LOG_LEVEL", "debug")
        monkeypatch.setenv("SUPERPOSED_KEEP_ORIGINALS", "true")
        with Server(store(tmp_path / "store")) as server, server.client() as client:
            client.register_task("acme", labels=LABELS, kind="texts")
            client.task("acme").partial_fit([SECRET_WORD], ["card"])
            heard.append(client._http.get("/metrics").text)
            events = client.events(after=0)
            heard += [str(next(events)) for _ in range(2)]
            bad = {"context": "acme", "texts": [SECRET_WORD, 1], "targets": ["card", "card"]}
            heard.append(client._http.post("/v1/update", json=bad).text)
        heard.append((tmp_path / "store.log").read_text())
        assert all(heard)
        assert not [line for line in heard if SECRET_WORD in line]


def updates(path: Path) -> list[Record]:
    with DataDirectory.existing(path) as opened:
        journal = opened.transaction_log().journal
        return [record for record in journal.replay(journal.horizon) if record.kind == "update"]


def written(path: Path) -> bytes:
    """Everything that the directory holds, payloads unpacked."""
    files = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    payloads = [unpack(record.payload) for record in updates(path) if record.payload is not None]
    return files + b"".join(array.tobytes() for arrays in payloads for array in arrays.values())


class TestEncoders:
    """A store whose encoder is missing, or another, answers rows and says what to do about texts."""

    def test_another_version_is_refused(self, tmp_path: Path) -> None:
        changed = config()
        wrong = EncoderConfig(**changed.encoders["texts"].model_dump() | {"fingerprint": "hash-0:64"})
        path = make_directory(tmp_path / "store", changed.replace(encoders={"texts": wrong}))
        with serving(path) as http, Client(str(http.base_url)) as client:
            register(http, "acme")
            rows = HashEncoder(WIDTH).encode(TEXTS)
            client.update("acme", rows, LABELS)
            assert client.infer("acme", rows).labels is not None
            with pytest.raises(ClientEncoderUnavailable, match=r"not the one.*remove .*encoders/texts"):
                client.infer("acme", TEXTS)
            assert "not the one" in client.store().encoders["texts"].status
            assert client.get_task("acme").updates == 1

    def test_a_package_that_is_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another process, in which ONNX Runtime cannot be imported: as without the extra."""
        encoder = EncoderConfig(spec="sentence-transformers:all-MiniLM-L6-v2", kind="texts", width=64, fingerprint="x")
        path = make_directory(tmp_path / "store", config().replace(encoders={"texts": encoder}))
        blocked = tmp_path / "blocked"
        (blocked / "onnxruntime").mkdir(parents=True)
        (blocked / "onnxruntime" / "__init__.py").write_text("raise ModuleNotFoundError(name='onnxruntime')")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(blocked), os.environ.get("PYTHONPATH", "")]))
        monkeypatch.setattr(Server, "launch", staticmethod(start_anew))
        with Server(path) as server, server.client() as client:
            client.register_task("acme", labels=LABELS, kind="texts")
            client.update("acme", HashEncoder(WIDTH).encode(TEXTS), LABELS)
            with pytest.raises(ClientEncoderUnavailable, match=r"superposed\[text\]"):
                client.infer("acme", TEXTS)
            with triton_http.InferenceServerClient(server.url.removeprefix("http://")) as triton:
                given = triton_http.InferInput("input", [1], "BYTES")
                given.set_data_from_numpy(np.asarray(["a"], dtype=object))
                with pytest.raises(Exception, match=r"superposed\[text\]"):
                    triton.infer("acme", [given])

    def test_several_encoders_are_chosen_by_name_and_not_mixed(self, tmp_path: Path) -> None:
        with serving(store(tmp_path / "store", small="hash:16", large="hash:100")) as http:
            answer = http.post("/v1/tasks", json={"key": "a", "labels": LABELS, "kind": "texts"})
            assert "encoder: large, small" in answer.text
            register(http, "a", encoder="small")
            register(http, "b", encoder="large")
            teach(http, "a")
            teach(http, "b")
            answer = http.post("/v1/infer", json={"contexts": ["a", "b"], "texts": ["x", "y"]})
            assert "several encoders" in problem(answer, 422, "shape-mismatch")["detail"]  # type: ignore[operator]
            assert "2 encoders of texts" in http.post("/v1/locate", json={"texts": ["x"]}).text
            assert http.post("/v1/locate", json={"texts": ["x"], "candidates": ["a"]}).json()["best"] == "a"


class TestCache:
    """Each API key and each task has embeddings of its own, bounded, and erased with the task's rows."""

    def test_hits_are_counted_and_erased(self, tmp_path: Path) -> None:
        with serving(store(tmp_path / "store")) as http:
            register(http, "acme")
            register(http, "other")
            assert self.counts(http) == (0, 0)
            teach(http, "acme")
            assert self.counts(http) == (0, 4)
            logits(http, texts=TEXTS)
            assert self.counts(http) == (4, 4)
            logits(http, texts=TEXTS, context="other")  # another task's: not told by its time
            assert self.counts(http) == (4, 8)
            http.delete("/v1/tasks/acme/data")
            logits(http, texts=TEXTS)
            assert self.counts(http) == (4, 12)
            http.delete("/v1/tasks/other/data")  # it has no rows: what was only asked goes too
            logits(http, texts=TEXTS, context="other")
            assert self.counts(http) == (4, 16)
            http.delete("/v1/tasks/other")
            register(http, "other")
            logits(http, texts=TEXTS, context="other")
            assert self.counts(http) == (4, 20)
            for _ in range(2):  # of no task yet: nobody could erase it
                http.post("/v1/locate", json={"texts": TEXTS})
            assert self.counts(http) == (4, 28)

    def test_other_api_keys_do_not_share_them(self, tmp_path: Path) -> None:
        with serving(store(tmp_path / "store")) as http:
            http.headers.update(make(http, "admin"))
            register(http, "acme")
            for headers, expected in ((make(http, "infer"), (0, 1)), (make(http, "infer"), (0, 2))):
                for _ in range(2):
                    http.post("/v1/infer", json={"context": "acme", "texts": ["a"]}, headers=headers)
                hits, misses = expected
                assert self.counts(http) == (hits + misses, misses)

    @pytest.mark.parametrize(("most", "misses"), [(0, 8), (4 * ENTRY_BYTES, 4), (3 * ENTRY_BYTES, 5)])
    def test_they_are_bounded_in_bytes(self, tmp_path: Path, most: int, misses: int) -> None:
        with serving(store(tmp_path / "store"), embedding_cache_bytes=most) as http:
            register(http, "acme")
            logits(http, texts=TEXTS)
            logits(http, texts=TEXTS)
            assert self.counts(http)[1] == misses
            shown = http.get("/metrics").text.split("\nsuperposed_embedding_cache_bytes ")[1].split()[0]
            assert float(shown) <= most

    @staticmethod
    def counts(http: httpx.Client) -> tuple[int, int]:
        found = {"hit": 0, "miss": 0}
        for line in http.get("/metrics").text.splitlines():
            for name in found:
                if line.startswith("superposed_encoder_items_total{") and f'cache="{name}"' in line:
                    found[name] = int(float(line.split()[-1]))
        return found["hit"], found["miss"]


def test_a_new_text_costs_a_hundred_rows_of_quota_and_a_known_one_one(tmp_path: Path) -> None:
    with serving(store(tmp_path / "store"), rejection_delay_ms=0) as http:
        http.headers.update(make(http, "admin"))
        register(http, "acme")
        key = make(http, "infer", rows_per_second=4000)
        body = {"context": "acme", "texts": [f"text {n}" for n in range(9)]}
        assert http.post("/v1/infer", json=body, headers=key).status_code == 200  # of 1,000 in a burst
        more = {"context": "acme", "texts": [f"more {n}" for n in range(9)]}
        problem(http.post("/v1/infer", json=more, headers=key), 429, "quota-exceeded")
        assert http.post("/v1/infer", json=body, headers=key).status_code == 200


def test_requests_of_many_clients_are_encoded_together_and_a_bad_one_spoils_none(tmp_path: Path) -> None:
    with serving(store(tmp_path / "store")) as http:
        register(http, "acme")
        teach(http, "acme", times=8)
        found: dict[int, httpx.Response] = {}

        def ask(number: int) -> None:
            text = "x" * 70_000 if number % 5 == 4 else TEXTS[number % 4]
            with httpx.Client(base_url=http.base_url) as own:
                found[number] = own.post("/v1/infer", json={"context": "acme", "texts": [text]})

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, answer in found.items():
            if number % 5 == 4:
                assert answer.status_code == 422
            else:
                assert answer.json()["labels"] == [LABELS[number % 4]]


class TestAbstaining:
    """A task with `abstain` gives no label to texts that are not like those it keeps."""

    def test_labels_are_left_out_of_scope_over_every_protocol(self, tmp_path: Path) -> None:
        port = free_port()
        with (
            serving(store(tmp_path / "store"), grpc_address=f"127.0.0.1:{port}") as http,
            Client(str(http.base_url)) as client,
        ):
            register(http, "acme", abstain=0.2)
            teach(http, "acme", ["card", "money", "plane", "train"])
            assert client.infer("acme", ["zebra"]).in_scope == [True]  # four rows say nothing yet
            for number in range(6):
                teach(http, "acme", [f"{text} {number}" for text in TEXTS], times=2)
            asked = [f"{TEXTS[0]} 9", "qqq zzz unrelated", f"{TEXTS[2]} 9"]
            answer = client.infer("acme", asked)
            assert answer.in_scope == [True, False, True]
            assert answer.labels == ["card", None, "flight"]
            assert client.task("acme").predict(asked).tolist() == ["card", None, "flight"]
            with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as triton:
                given = triton_grpc.InferInput("input", [3], "BYTES")
                given.set_data_from_numpy(np.asarray(asked, dtype=object))
                found = triton.infer("acme", [given])
            assert found.as_numpy("in_scope").tolist() == [True, False, True]
            assert found.as_numpy("labels").tolist() == [b"card", b"", b"flight"]
            http.delete("/v1/tasks/acme/data")
            assert client.infer("acme", asked).in_scope == [True] * 3  # nothing is kept to compare with

    def test_it_beside_a_task_that_never_abstains(self, tmp_path: Path) -> None:
        with serving(store(tmp_path / "store")) as http:
            register(http, "careful", abstain=0.2)
            register(http, "bold")
            for number in range(4):
                for key in ("careful", "bold"):
                    teach(http, key, [f"{text} {number}" for text in TEXTS], times=2)
            body = {"contexts": ["bold", "careful", "careful"], "texts": ["zzz", "zzz", f"{TEXTS[3]} 1"]}
            answer = http.post("/v1/infer", json=body).json()
            assert answer["in_scope"] == [True, False, True]
            assert answer["labels"][1:] == [None, "train"]
            assert answer["labels"][0] in LABELS
            only = http.post("/v1/infer", json=body | {"return": ["labels"]}).json()
            assert set(only) == {"sequence", "labels"}
            assert only["labels"][1] is None


def test_a_waiting_text_is_dropped_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(self: HashEncoder, items: list[str], places: object = None) -> np.ndarray:
        begun.set()
        go_on.wait(20)
        return np.zeros((len(items), self.width), dtype=np.float32)

    monkeypatch.setattr(HashEncoder, "encode", slow)
    with serving(store(tmp_path / "store")) as http:
        register(http, "acme")
        first = threading.Thread(target=lambda: http.post("/v1/infer", json={"context": "acme", "texts": ["a"]}))
        first.start()
        assert begun.wait(10)
        with httpx.Client(base_url=http.base_url) as own:
            body = {"context": "acme", "texts": ["b"]}
            late = own.post("/v1/infer", json=body, headers={"Request-Timeout": "0.2"})
            problem(late, 504, "deadline-exceeded")
            # Rows of numbers do not wait for the encoder.
            rows = {"context": "acme", "inputs": [[0.0] * WIDTH]}
            assert own.post("/v1/infer", json=rows).status_code == 200
        go_on.set()
        first.join()


def test_the_openapi_document_names_texts_and_images(http: httpx.Client) -> None:
    document = json.dumps(http.get("/openapi.json").json()["paths"]["/v1/infer"])
    assert '"texts"' in document
    assert '"images"' in document
