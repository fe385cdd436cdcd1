"""`superposed status | tasks | teach | predict | evaluate` on files, against real servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pandas as pd
import pytest
from sklearn.datasets import load_wine

from demo.server_process import Server
from tests.conftest import make_directory, serving
from tests.service.test_server import superposed
from tests.service.test_texts import store


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("files")
    frame = load_wine(as_frame=True).frame.assign(target=lambda table: [f"class {one}" for one in table.target])
    frame.to_csv(folder / "wine.csv", index=False)
    frame.to_parquet(folder / "wine.parquet")
    frame.to_json(folder / "wine.jsonl", orient="records", lines=True)
    with Server(make_directory(folder / "store")) as server:
        yield server, folder


def good(*arguments: object) -> str:
    done = superposed(*map(str, arguments))
    assert done.returncode == 0, done.stderr
    return done.stdout


def row_of(key: str, table: str) -> list[str]:
    [row] = [line for line in table.splitlines() if f" {key} " in line]
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_from_a_file_to_a_taught_task(wine: tuple[Server, Path]) -> None:
    server, folder = wine
    taught = good("teach", server.url, "wine", folder / "wine.csv", "--target", "target", "--epochs", 20)
    assert taught == "178 rows taught to the new task wine; target: target; epochs: 20\n"
    assert float(good("evaluate", server.url, "wine", folder / "wine.parquet")) > 0.95
    rows = pd.read_json(folder / "wine.jsonl", lines=True).drop(columns="target")
    rows.to_csv(folder / "rows.csv", index=False)
    for name in ("out.csv", "out.parquet", "out.jsonl"):
        good("predict", server.url, "wine", folder / "rows.csv", "-o", folder / name)
    found = [pd.read_csv(folder / "out.csv"), pd.read_parquet(folder / "out.parquet")]
    found.append(pd.read_json(folder / "out.jsonl", lines=True))
    assert all(one.prediction.tolist() == found[0].prediction.tolist() for one in found)
    assert (found[0].prediction == pd.read_csv(folder / "wine.csv").target).mean() > 0.95
    assert good("predict", server.url, "wine", folder / "rows.csv").splitlines()[0].endswith(",prediction")
    assert good("predict", server.url, "wine", folder / "wine.csv").splitlines()[0].endswith(",target,prediction")
    assert row_of("wine", good("tasks", server.url, "wine"))[:6] == ["wine", "records", "13", "3", "120", "3560"]
    again = good("teach", server.url, "wine", folder / "wine.csv", "--target", "target")
    assert again == "178 rows taught to wine; target: target; epochs: 1\n"
    good("teach", server.url, "wine-too", folder / "wine.csv", "--target", "target")
    for context in ("mix(wine:0.5,wine-too:0.5)", "wine^0.9"):
        assert good("predict", server.url, context, folder / "rows.csv").splitlines()[0].endswith(",prediction")
    status = good("status", server.url)
    assert "leader of epoch 1, ready" in status


def test_a_group_stands_before_its_members(wine: tuple[Server, Path]) -> None:
    server, _ = wine
    with server.client() as client:
        for key in ("z-late", "a-early"):
            client.register_task(key, group="m-group", inputs=3, labels=["x", "y"])
    shown = good("tasks", server.url)
    names = [line.split()[1] for line in shown.splitlines() if "-early" in line or "-late" in line or "m-group" in line]
    assert names == ["m-group", "m-group/a-early", "m-group/z-late"]
    members = good("tasks", server.url, "m-group/")
    assert "m-group/a-early" in members
    assert "m-group/z-late" in members
    assert "m-group " not in members
    assert "a-early" not in good("tasks", server.url, "m-group/z")


def test_columns_that_are_not_there_are_named(wine: tuple[Server, Path]) -> None:
    server, folder = wine
    frame = pd.read_csv(folder / "wine.csv")
    frame.to_csv(folder / "whole.csv", index=False)
    frame.drop(columns=["alcohol", "hue"]).to_csv(folder / "fewer.csv", index=False)
    good("teach", server.url, "columns", folder / "whole.csv")
    for command in ("predict", "evaluate", "teach"):
        done = superposed(command, server.url, "columns", str(folder / "fewer.csv"))
        assert done.returncode == 0, done.stderr
        assert "no column alcohol, hue: taken as missing values" in done.stderr
    assert "no column" not in superposed("predict", server.url, "columns", str(folder / "whole.csv")).stderr


def test_a_member_of_a_group_has_the_features_of_the_group(wine: tuple[Server, Path]) -> None:
    server, folder = wine
    frame = pd.read_csv(folder / "wine.csv")
    frame.to_csv(folder / "of-group.csv", index=False)
    frame.drop(columns="hue").to_csv(folder / "less.csv", index=False)
    with server.client() as client:
        for key in ("first", "second"):
            client.task(key, labels=sorted(set(frame.target)), group="tables").fit(
                frame.drop(columns="target"), frame.target
            )
        assert len(client.get_task("second").features or ()) == 13
    assert row_of("tables/second", good("tasks", server.url))[2] == "13"
    assert "no column hue:" in superposed("evaluate", server.url, "tables/second", str(folder / "less.csv")).stderr
    shown = good("predict", server.url, "tables/second", folder / "of-group.csv")
    assert shown.splitlines()[0].endswith(",target,prediction")


def test_columns_that_are_numbers_are_named_as_text(wine: tuple[Server, Path]) -> None:
    server, folder = wine
    frame = pd.read_csv(folder / "wine.csv")
    frame.set_axis(list(range(14)), axis=1).to_parquet(folder / "numbered.parquet")
    assert "target: 13" in good("teach", server.url, "numbered", folder / "numbered.parquet")
    done = superposed("evaluate", server.url, "numbered", str(folder / "numbered.parquet"))
    assert float(done.stdout) > 0.9
    assert done.stderr == ""


def test_texts_for_a_task_of_records_are_one_line(wine: tuple[Server, Path]) -> None:
    server, folder = wine
    pd.read_csv(folder / "wine.csv").to_csv(folder / "texts.csv", index=False)
    good("teach", server.url, "records", folder / "texts.csv")
    for command in ("predict", "evaluate", "teach"):
        done = superposed(command, server.url, "records", str(folder / "texts.csv"), "--text", "alcohol")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "no column" not in done.stderr


def test_a_long_key_hides_no_other_column(wine: tuple[Server, Path]) -> None:
    server, _ = wine
    with server.client() as client:
        client.register_task("k" * 100, inputs=3, labels=["x", "y"])
    shown = superposed("tasks", server.url, "kkk", COLUMNS="80").stdout
    assert shown.count("k") >= 100
    assert "rows" in shown
    assert "2" in shown


def test_a_reader_who_has_enough_is_no_mistake(wine: tuple[Server, Path]) -> None:
    server, folder = wine
    frame = pd.concat([pd.read_csv(folder / "wine.csv")] * 20)
    frame.to_csv(folder / "many.csv", index=False)
    good("teach", server.url, "pipe", folder / "wine.csv")
    command = f"{Path(sys.executable).parent}/superposed predict {server.url} pipe {folder / 'many.csv'} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith(",target,prediction\n")
    assert done.stderr == ""


def test_values(wine: tuple[Server, Path]) -> None:
    server, folder = wine
    frame = pd.read_csv(folder / "wine.csv").drop(columns="target")
    frame.to_csv(folder / "values.csv", index=False)  # the last column, proline, from the others
    good("teach", server.url, "proline", folder / "values.csv", "--loss", "mse", "--epochs", 20)
    assert float(good("evaluate", server.url, "proline", folder / "values.csv")) > 0.5
    assert row_of("proline", good("tasks", server.url, "proline"))[:4] == ["proline", "records", "12", ""]
    done = superposed("teach", server.url, "forgotten", str(folder / "values.csv"))
    assert "values need loss mse" in done.stderr


def test_a_loss_that_there_is_not(wine: tuple[Server, Path]) -> None:
    server, folder = wine
    done = superposed("teach", server.url, "other", str(folder / "wine.csv"), "--loss", "ms")
    assert done.returncode == 2
    assert "'ms' is not one of" in done.stderr


def test_texts(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["good day", "bye", "good day to you", "bye bye"], "intent": ["hello", "bye"] * 2})
    frame.to_csv(tmp_path / "texts.csv", index=False)
    with serving(store(tmp_path / "store")) as http:
        url = str(http.base_url)
        good("teach", url, "intents", tmp_path / "texts.csv", "--text", "text", "--epochs", 30)
        assert float(good("evaluate", url, "intents", tmp_path / "texts.csv", "--text", "text")) == 1.0
        assert (
            good("predict", url, "intents", tmp_path / "texts.csv", "--text", "text").splitlines()[1].endswith("hello")
        )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("teach", "URL", "wine", "FILE", "--target", "colour"), "no column 'colour'"),
        (("predict", "URL", "wine", "FILE", "--text", "words"), "no column 'words'"),
        (("teach", "URL", "not a key!", "FILE"), "not a key"),
        (("predict", "URL", "nobody", "FILE"), "no task has this key"),
        (("evaluate", "URL", "wine", "missing.csv"), "missing.csv"),
        (("status", "http://127.0.0.1:9"), "no answer"),
    ],
)
def test_mistakes_are_one_line(wine: tuple[Server, Path], arguments: tuple[str, ...], reason: str) -> None:
    server, folder = wine
    known = {"URL": server.url, "FILE": str(folder / "wine.csv")}
    done = superposed(*(known.get(one, one) for one in arguments))
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert httpx.get(f"{server.url}/v1/tasks", params={"prefix": "not"}).json()["tasks"] == []
