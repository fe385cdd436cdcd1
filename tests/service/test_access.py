"""API keys, scopes and task-key patterns."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route
from typer.testing import CliRunner

from experiments.plain import plain_config
from superposed import MLPConfig
from superposed.errors import UnknownTask
from superposed_client import ApiError, AsyncClient, Client, Forbidden, Unauthenticated
from superposed_client import ApiKey as ApiKeyInfo
from superposed_service.api.app import create_api
from superposed_service.api.auth import Principal
from superposed_service.api.middleware.route_table import access_rules
from superposed_service.cli.commands import app as command_line
from superposed_service.errors import Forbidden as ServiceForbidden
from superposed_service.settings import Settings
from superposed_service.storage import ApiKey, DataDirectory
from tests.conftest import make_directory, serving
from tests.helpers.api_keys import UPDATE, make
from tests.helpers.http import ROW, problem, register
from tests.helpers.routes import ACCESS_RULES, ROUTES

SCOPES = ("monitor", "infer", "update", "admin")
ALLOWED = {"monitor": {"monitor", "admin"}, "infer": {"infer", "update", "admin"}, "update": {"update", "admin"}}


@pytest.fixture
def admin(http: httpx.Client) -> Iterator[httpx.Client]:
    """The server, whose first key is this client's."""
    http.headers.update(make(http, "admin", name="first"))
    yield http
    http.headers.pop("authorization", None)


def _flat(routes: Iterable[object]) -> Iterator[Route | APIRoute]:
    """The routes of an application, those of included routers too."""
    for route in routes:
        if isinstance(route, Route | APIRoute):
            yield route
        else:
            yield from _flat(route.original_router.routes)  # type: ignore[attr-defined]


def _add_routes(app: FastAPI) -> None:
    app.add_api_route("/v1/unlisted", lambda: {"secret": 1})
    router = APIRouter(prefix="/v1/newer")
    router.add_api_route("/{key}", lambda: {"secret": 2})
    app.include_router(router)
    app.state.routes += router.routes


class TestScopes:
    def test_every_route_has_a_rule_and_every_rule_a_route(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        with DataDirectory(path) as directory:
            routes = create_api(Settings(), directory).routes
        served = {
            (method, route.path_format) for route in _flat(routes) for method in (route.methods or set()) - {"HEAD"}
        }
        assert served == set(ACCESS_RULES)
        stated = access_rules(ROUTES) | {("GET", "/openapi.json"): "infer"}
        assert stated == dict(ACCESS_RULES)

    def test_nobody_gets_more_than_the_scope_says(self, admin: httpx.Client) -> None:
        keys = {scope: make(admin, scope) for scope in SCOPES}
        with httpx.Client(base_url=admin.base_url) as stranger:
            for (method, path), needed in ACCESS_RULES.items():
                if needed is None:
                    url = path.replace("{path}", "js/app.js")
                    assert stranger.request(method, url).status_code in {200, 307}
                    continue
                url = re.sub(r"\{.*?\}", "nothing", path)
                for headers in ({}, {"Authorization": "Bearer sp-x"}, {"Authorization": "Basic eDp5"}):
                    refused = stranger.request(method, url, headers=headers)
                    assert refused.status_code == 401, (method, path)
                    assert refused.headers["www-authenticate"] == "Bearer"
                allowed = ALLOWED.get(needed, {"admin"})
                for scope in SCOPES:
                    # Streamed: not all answers end by themselves.
                    with stranger.stream(method, url, headers=keys[scope]) as answer:
                        status = answer.status_code
                    assert (status not in {401, 403}) if scope in allowed else (status == 403), (path, scope)

    def test_no_other_method_opens_a_route(self, admin: httpx.Client) -> None:
        """Every path with every method that it does not have, for a stranger and for each scope."""
        keys = {scope: make(admin, scope) for scope in SCOPES}
        paths = sorted({path for _, path in ACCESS_RULES})
        asked = 0
        with httpx.Client(base_url=admin.base_url) as stranger:
            for path in paths:
                url = re.sub(r"\{.*?\}", "nothing", path)
                for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"):
                    if (method, path) in ACCESS_RULES:
                        continue
                    assert stranger.request(method, url).status_code == 401, (method, path)
                    for headers in keys.values():
                        answer = stranger.request(method, url, headers=headers)
                        assert answer.status_code in {403, 404, 405, 422}, (method, path)
                        asked += 1
                if ("GET", path) in ACCESS_RULES and ACCESS_RULES["GET", path] is not None:
                    assert stranger.head(url).status_code == 401  # HEAD is as GET
        assert asked > 500

    def test_what_is_not_there_is_still_not_there(self, admin: httpx.Client) -> None:
        problem(admin.get("/v1/nothing"), 404, "not-found")
        problem(admin.put("/v1/infer"), 405, "method-not-allowed")

    def test_a_route_without_a_rule_is_for_nobody(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        with serving(path, change=_add_routes) as client:
            assert client.get("/v1/newer/x").status_code == 200  # without keys every client may do anything
            problem(client.get("/v1/unlisted"), 404, "not-found")
            headers = make(client, "admin")
            for route in ("/v1/unlisted", "/v1/newer/x"):
                problem(client.get(route), 401, "unauthenticated")
            problem(client.get("/v1/newer/x", headers=headers), 403, "forbidden")
            problem(client.get("/v1/unlisted", headers=headers), 404, "not-found")
            assert client.get("/v1/store", headers=headers).status_code == 200

    def test_the_key_is_checked_before_the_body(self, admin: httpx.Client) -> None:
        with httpx.Client(base_url=admin.base_url) as stranger:
            problem(stranger.post("/v1/update", content=b"x" * 300_000), 401, "unauthenticated")


class TestKeys:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"}, 403),
            ({"Origin": "https://elsewhere.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Sec-Fetch-Site": "same-origin", "Origin": "https://in.front"}, 200),
            ({"Sec-Fetch-Site": "none"}, 200),
            ({}, 200),
        ],
    )
    def test_other_sites_pages_change_nothing(self, http: httpx.Client, headers: dict[str, str], status: int) -> None:
        """A page anywhere may have a browser send a body without asking: to a server without keys too."""
        answer = http.post("/v1/rollback", content=b'{"to_sequence": 0}', headers=headers)
        assert answer.status_code == status
        assert http.get("/v1/store", headers=headers).status_code == 200

    def test_the_servers_own_page_may(self, http: httpx.Client) -> None:
        origin = str(http.base_url).rstrip("/")
        assert http.post("/v1/snapshots", headers={"Origin": origin}).status_code == 200

    def test_the_first_key_closes_the_server(self, http: httpx.Client) -> None:
        assert http.get("/v1/store").status_code == 200
        headers = make(http, "admin")
        problem(http.get("/v1/store"), 401, "unauthenticated")
        assert http.get("/v1/store", headers=headers).status_code == 200

    def test_rotate_revoke_expire(self, admin: httpx.Client) -> None:
        old = make(admin, "infer", name="reader")
        identifier = old["Authorization"].split("-")[1]
        answer = admin.post(f"/v1/keys/{identifier}/rotate").json()
        assert answer["id"] == identifier
        new = {"Authorization": f"Bearer {answer['key']}"}
        problem(admin.get("/v1/store", headers=old), 401, "unauthenticated")
        assert admin.get("/v1/store", headers=new).status_code == 200
        assert admin.delete(f"/v1/keys/{identifier}").status_code == 204
        problem(admin.get("/v1/store", headers=new), 401, "unauthenticated")
        problem(admin.post(f"/v1/keys/{identifier}/rotate"), 404, "not-found")
        problem(admin.delete("/v1/keys/nothing"), 404, "not-found")
        late = make(admin, "infer", expires=time.time() - 1)
        problem(admin.get("/v1/store", headers=late), 401, "unauthenticated")
        listed = admin.get("/v1/keys").json()
        assert [key["name"] for key in listed] == ["first", "reader", ""]
        assert listed[1]["revoked"] is not None
        assert not any("secret" in field for key in listed for field in key)

    def test_both_clients_manage_them(self, http: httpx.Client) -> None:
        url = str(http.base_url)
        with Client(url) as nobody:
            first = nobody.keys.create("admin", name="first")
        assert first.key not in repr(first)
        with Client(url, api_key=first.key) as client:
            made = client.keys.create(
                "infer", name="reader", tasks="team-*", expires=time.time() + 60, rows_per_second=50
            )
            rotated = client.keys.rotate(made.id)
            assert rotated.id == made.id
            assert rotated.key != made.key
            client.keys.revoke(made.id)

            async def listed() -> list[ApiKeyInfo]:
                async with AsyncClient(url, api_key=first.key) as other:
                    mine = await other.keys.create("monitor")
                    await other.keys.rotate(mine.id)
                    await other.keys.revoke(mine.id)
                    return await other.keys.list()

            keys = asyncio.run(listed())
            assert keys == client.keys.list()
        assert [key.rows_per_second for key in keys] == [None, 50.0, None]
        assert [(key.name, key.scope, key.tasks) for key in keys] == [
            ("first", "admin", "*"), ("reader", "infer", "team-*"), ("", "monitor", "*"),
        ]  # fmt: skip
        assert [key.revoked is None for key in keys] == [True, False, False]

    def test_keys_survive_a_restart(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        runner = CliRunner()
        made = runner.invoke(command_line, ["keys", "create", str(path), "--scope", "update", "--name", "n"])
        text = made.output.strip()
        assert re.fullmatch(r"sp-[0-9a-f]{12}-\S{43}", text)
        identifier = text.split("-")[1]
        assert identifier in runner.invoke(command_line, ["keys", "list", str(path)]).output
        rotated = runner.invoke(command_line, ["keys", "rotate", str(path), identifier]).output.strip()
        assert rotated.startswith(f"sp-{identifier}-")
        assert rotated != text
        stored = (path / "journal.db").read_bytes() + (path / "HEAD").read_bytes()
        assert text.split("-", 2)[2].encode() not in stored
        with serving(path) as client:
            assert client.get("/v1/store").status_code == 401
            good = {"Authorization": f"Bearer {rotated}"}
            assert client.get("/v1/store", headers=good).status_code == 200
        assert runner.invoke(command_line, ["keys", "revoke", str(path), identifier]).exit_code == 0
        with DataDirectory(path) as directory:
            [key] = directory.transaction_log().api_keys.all()
            assert key.revoked is not None

    def test_the_journal_says_who(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        with serving(path) as http:
            register(http, "digits")
            headers = make(http, "update")
            assert http.post("/v1/update", json=UPDATE, headers=headers).status_code == 200
        shown = CliRunner().invoke(command_line, ["log", str(path), "--json"]).output
        lines = [json.loads(line) for line in shown.splitlines()]
        identifier = headers["Authorization"].split("-")[1]
        assert [(one["kind"], one["author"]) for one in lines] == [("register", ""), ("update", identifier)]

    def test_other_addresses_need_a_key(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        found = CliRunner().invoke(command_line, ["serve", str(path), "--host", "192.0.2.1"])
        assert "superposed keys create" in str(found.exception)
        CliRunner().invoke(command_line, ["keys", "create", str(path), "--scope", "admin"])
        found = CliRunner().invoke(command_line, ["serve", str(path), "--host", "192.0.2.1"])
        assert "superposed keys create" not in str(found.exception)  # goes on, to an address that is not here


class TestPatterns:
    def test_a_foreign_task_is_not_there(self, admin: httpx.Client) -> None:
        for key in ("mine.a", "mine.b", "theirs"):
            register(admin, key)
        mine = make(admin, "update", tasks="mine.*")
        body = {"inputs": [ROW], "targets": ["0"]}
        foreign: list[dict[str, Any]] = [
            {"context": "theirs"},
            {"context": "mix(mine.a:0.9,theirs:0.1)"},
            {"context": {"power": {"context": "theirs", "exponent": 2}}},
            {"contexts": ["theirs"]},
        ]
        for context in foreign:
            for route in ("/v1/infer", "/v1/update", "/v1/evaluate"):
                asked = {name: body[name] for name in ("inputs",) if route == "/v1/infer"} or body
                there = problem(admin.post(route, json=context | asked, headers=mine), 404, "unknown-task")
                assert there["received"] == "theirs"
        problem(admin.get("/v1/tasks/theirs", headers=mine), 404, "unknown-task")
        problem(admin.delete("/v1/tasks/theirs", headers=mine), 404, "unknown-task")
        problem(admin.delete("/v1/tasks/theirs/data", headers=mine), 404, "unknown-task")
        problem(admin.post("/v1/tasks", json={"key": "other", "outputs": 2}, headers=mine), 404, "unknown-task")
        own = {"context": "mix(mine.a:0.5,mine.b:0.5)"}
        assert admin.post("/v1/update", json=own | body, headers=mine).status_code == 200
        listed = admin.get("/v1/tasks?limit=1", headers=mine).json()
        assert [task["key"] for task in listed["tasks"]] == ["mine.a"]
        listed = admin.get(f"/v1/tasks?cursor={listed['next_cursor']}", headers=mine).json()
        assert ([task["key"] for task in listed["tasks"]], listed["next_cursor"]) == (["mine.b"], None)

    def test_nobody_finds_or_joins_a_foreign_task(self, admin: httpx.Client) -> None:
        for key in ("mine", "theirs"):
            register(admin, key)
        key = make(admin, "update", tasks="m*")
        rows = {"inputs": [ROW]}
        found = admin.post("/v1/locate", json=rows, headers=key).json()
        assert [score["context"] for score in found["scores"]] == ["mine"]
        assert admin.post("/v1/infer", json=rows | {"context": "auto"}, headers=key).json()["located"]
        for question in ({"candidates": ["mine", "theirs"]}, {"exponent_of": "theirs"}):
            problem(admin.post("/v1/locate", json=rows | question, headers=key), 404, "unknown-task")
        power: dict[str, Any] = {"exponent_of": "mine"}
        problem(admin.post("/v1/locate", json=rows | power, headers=key), 403, "forbidden")
        away = rows | power | {"exponents": [0.5, 2.0]}
        assert admin.post("/v1/locate", json=away, headers=key).status_code == 200
        member = {"key": "me", "outputs": 10, "group": "theirs"}
        problem(admin.post("/v1/tasks", json=member, headers=key), 404, "unknown-task")

    def test_group_permission_lets_a_key_join_and_nothing_else(self, admin: httpx.Client) -> None:
        """A member binds the group's layers; the group is not addressed, taught, shown or deleted by it."""
        register(admin, "support")
        key = make(admin, "update", tasks="acme-*", groups="support*")
        member = {"key": "acme-mail", "labels": ["a", "b"], "inputs": 64, "group": "support"}
        assert admin.post("/v1/tasks", json=member, headers=key).status_code == 201
        new = {"key": "acme-chat", "labels": ["a", "b"], "inputs": 64, "group": "support-eu"}
        assert admin.post("/v1/tasks", json=new, headers=key).status_code == 201  # the group is made
        assert admin.get("/v1/tasks/support-eu").status_code == 200
        update = {"context": "acme-mail", "inputs": [ROW], "targets": ["a"]}
        assert admin.post("/v1/update", json=update, headers=key).status_code == 200
        before = admin.get("/v1/tasks/support").json()
        for group in ("support", "support-eu"):
            rows = {"context": group, "inputs": [ROW]}
            problem(admin.post("/v1/infer", json=rows, headers=key), 404, "unknown-task")
            taught = rows | {"targets": [0]}
            problem(admin.post("/v1/update", json=taught, headers=key), 404, "unknown-task")
            problem(admin.get(f"/v1/tasks/{group}", headers=key), 404, "unknown-task")
            problem(admin.delete(f"/v1/tasks/{group}", headers=key), 404, "unknown-task")
            mixed = {"context": f"mix({group}:0.5,acme-mail:0.5)", "inputs": [ROW]}
            problem(admin.post("/v1/infer", json=mixed, headers=key), 404, "unknown-task")
        assert admin.get("/v1/tasks/support").json() == before
        for group, other in (("sales", "acme-x"), ("support", "globex")):
            body = member | {"key": other, "group": group}
            refused = problem(admin.post("/v1/tasks", json=body, headers=key), 404, "unknown-task")
            assert refused["expected"] == "a task acme-*, as this API key may name; groups to join: support*"
        secret = key["Authorization"].removeprefix("Bearer ")
        with (
            Client(str(admin.base_url), api_key=secret) as client,
            pytest.raises(ApiError, match="no task has this key") as unknown,
        ):
            client.task("globex", labels=["a", "b"]).fit([ROW], ["a"])
        assert "teach it" not in str(unknown.value)  # it was about to be
        assert "sales" not in {task["key"] for task in admin.get("/v1/tasks").json()["tasks"]}
        listed = admin.get("/v1/tasks", headers=key).json()["tasks"]
        assert {task["key"] for task in listed} == {"acme-mail", "acme-chat"}

    def test_statistics_show_only_what_may_be_named(self, admin: httpx.Client) -> None:
        for key in ("ma", "mb", "secret"):
            register(admin, key)
        body = {"inputs": [{"name": "input", "shape": [1, 64], "datatype": "FP32", "data": ROW}]}
        for model in ("mix(ma:0.5,mb:0.5)", "mix(ma:0.5,secret:0.5)", "secret", "nobody"):
            admin.post(f"/v2/models/{model}/infer", json=body)
        mine = make(admin, "infer", tasks="m*")
        shown = admin.get("/v2/models/stats", headers=mine).json()["model_stats"]
        assert [one["name"] for one in shown] == ["mix(ma:0.5,mb:0.5)"]
        every = admin.get("/v2/models/stats").json()["model_stats"]
        assert len(every) == 3  # not one that does not exist

    def test_an_admin_key_has_no_pattern(self, admin: httpx.Client) -> None:
        answer = admin.post("/v1/keys", json={"scope": "admin", "tasks": "a-*"})
        problem(answer, 422, "invalid-request")

    @pytest.mark.parametrize(
        ("context", "allowed"),
        [
            ("a", True),
            ("a^0.5", True),
            ("a^-2", True),
            ("mix(a:1,b:1,c:1,d:1)", True),
            ("a^0.3", False),
            ("a^0", False),
            ("mix(a:1,b:1,c:1,d:1,e:1)", False),
            ("mix(a:0.5,a^-1:0.5)", False),
            ("a^4^0.1", False),
        ],
    )
    def test_nobody_gets_near_to_where_all_contexts_meet(self, context: str, allowed: bool) -> None:
        key = ApiKey("0", "", "update", "?", "", 0.0, 0)
        if allowed:
            Principal(key).check_contexts([context])
        else:
            with pytest.raises(ServiceForbidden):
                Principal(key).check_contexts(["a", context])
        Principal(None).check_contexts([context])
        with pytest.raises(UnknownTask):
            Principal(key).check_contexts(["long"])

    @pytest.mark.parametrize(
        ("context", "allowed"),
        [
            ("a^0.25", True),
            ("a^0", True),
            ("mix(a:1,b:1,c:1,d:1)^64", True),
            ("mix(a:1,b:1,c:1,d:1,e:1)", False),
            ("mix(a:1,b:1,c:1,d:1,e:1)^64", False),
        ],
    )
    def test_in_a_cyclic_store_exponents_lead_nowhere(self, context: str, allowed: bool) -> None:
        mine = Principal(ApiKey("0", "", "update", "?", "", 0.0, 0), cyclic=True)
        assert mine.may_address(context) == allowed

    def test_the_stores_family_says_which_distance_holds(self, tmp_path: Path) -> None:
        config = plain_config(network=MLPConfig(inputs=64, hidden=(16,), outputs=10), family="cyclic")
        with serving(make_directory(tmp_path / "store", config)) as http:
            names = [f"mine{number}" for number in range(5)]
            for key in names:
                assert http.post("/v1/tasks", json={"key": key, "outputs": 2}).status_code == 201
            http.headers.update(make(http, "admin"))
            mine = make(http, "infer", "mine*")
            many = ",".join(f"{name}:1" for name in names)
            for context, status in (("mine0^0.25", 200), (f"mix({many})^64", 403)):
                answer = http.post("/v1/infer", json={"context": context, "inputs": [ROW]}, headers=mine)
                assert answer.status_code == status, answer.text

    def test_overlaps_are_of_tasks_and_not_of_expressions(self, admin: httpx.Client) -> None:
        """A pattern matches text: what the store would read as another task's context is refused before."""
        register(admin, "grp-x")
        member = {"key": "secret", "outputs": 10, "group": "grp-x"}
        assert admin.post("/v1/tasks", json=member).status_code == 201
        for tasks, asked in (("grp*", "grp-x,grp-x/secret"), ("m*", "mix(secret:1)")):
            own = make(admin, "infer", tasks)
            answer = admin.get("/v1/interference", params={"tasks": asked}, headers=own)
            problem(answer, 422, "expression-invalid")
        own = make(admin, "infer", "grp*")
        assert admin.get("/v1/interference?tasks=grp-x", headers=own).status_code == 200


class TestAuthors:
    def test_what_a_key_sent_is_rolled_back(self, admin: httpx.Client) -> None:
        register(admin)
        keys = {name: make(admin, "update", name=name) for name in ("good", "bad")}
        body = {"context": "digits", "inputs": [ROW], "return": ["logits"]}
        admin.post("/v1/update", json=UPDATE, headers=keys["good"])
        wanted = admin.post("/v1/infer", json=body).json()["logits"]
        for _ in range(2):
            admin.post("/v1/update", json=UPDATE, headers=keys["bad"])
        bad = keys["bad"]["Authorization"].split("-")[1]
        problem(admin.post("/v1/rollback", json={"without": {"api_key": "nobody"}}), 404, "not-found")
        answer = admin.post("/v1/rollback", json={"without": {"api_key": bad}}).json()
        assert answer["excluded"] == [[3, 4]]
        assert admin.post("/v1/infer", json=body).json()["logits"] == wanted

    def test_a_key_in_quarantine(self, admin: httpx.Client) -> None:
        register(admin)
        keys = {name: make(admin, "update", name=name) for name in ("good", "bad")}
        bad = keys["bad"]["Authorization"].split("-")[1]
        assert admin.post("/v1/quarantine", json={"source": f"key:{bad}"}).status_code == 200
        problem(admin.post("/v1/update", json=UPDATE, headers=keys["bad"]), 423, "quarantined")
        assert admin.post("/v1/update", json=UPDATE, headers=keys["good"]).status_code == 200
        assert admin.delete(f"/v1/quarantine/key:{bad}").status_code == 204
        assert admin.post("/v1/update", json=UPDATE, headers=keys["bad"]).status_code == 200

    def test_idempotency_keys_are_each_authors_own(self, admin: httpx.Client) -> None:
        register(admin)
        sequences = set()
        for name in ("one", "two"):
            headers = make(admin, "update", name=name) | {"Idempotency-Key": "same"}
            for _ in range(2):
                sequences.add(admin.post("/v1/update", json=UPDATE, headers=headers).json()["sequence"])
        assert len(sequences) == 2


def test_the_sdk(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(admin.base_url)
    text = make(admin, "update", tasks="sdk-*")["Authorization"].partition(" ")[2]
    with Client(url) as client, pytest.raises(Unauthenticated):
        client.store()
    with Client(url, api_key=text) as client:
        assert client.register_task("sdk-a", outputs=2).key == "sdk-a"
        with pytest.raises(Forbidden):
            client.roll_back(to_sequence=0)
    monkeypatch.setenv("SUPERPOSED_API_KEY", admin.headers["authorization"].partition(" ")[2])
    with Client(url) as client:
        client.update("sdk-a", [ROW], [1])
        identifier = text.split("-")[1]
        assert client.roll_back(api_key=identifier).excluded == []
        assert client.roll_back(to_sequence=1).excluded == [(2, 2)]


def test_beyond_the_beginning_of_a_key(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "store")
    with serving(path, history_records=0, snapshots_kept=2) as http:
        register(http)
        http.headers.update(make(http, "admin"))
        for _ in range(3):
            http.post("/v1/update", json=UPDATE)
            http.post("/v1/snapshots")
        identifier = http.headers["authorization"].split("-")[1]
        problem(http.post("/v1/rollback", json={"without": {"api_key": identifier}}), 409, "beyond-horizon")
