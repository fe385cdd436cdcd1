from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from onnxruntime import InferenceSession
from typer.testing import CliRunner, Result

from superposed import RetrievedModel
from superposed_service.cli.commands import app
from superposed_service.errors import Quarantined, StorageUnavailable
from superposed_service.storage import DataDirectory
from superposed_service.storage.database import Database
from tests.helpers.machine import Machine

RUNNER = CliRunner()


def command(*arguments: object) -> Result:
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two tasks, four updates of which one was refused and one rolled back, two snapshots."""
    machine = Machine(tmp_path / "store")
    machine.register("a")
    machine.register("b")
    machine.update("a", [[1, 2, 3, 4]], [1])
    machine.snapshot()
    machine.update("mix(a:1,b:1)", [[0.5, 2, 3, 4]], [0])
    with pytest.raises(Exception, match="gradient"):
        machine.update("a", [[1e38, 1, 1, 1]], [0])
    machine.roll_back(sequences=(4, 4))
    machine.update("b", [[1, 2, 3, 4]], [1])
    machine.close()
    return tmp_path / "store"


def test_the_log_knows_of_a_quarantine_before_the_journal(path: Path) -> None:
    machine = Machine(path)
    machine.quarantine("a")  # 9
    for _ in range(2):  # so that the journal no longer has the decision
        machine.snapshot()
        with pytest.raises(Quarantined):
            machine.update("a", [[1, 2, 3, 4]], [1])
    machine.snapshot()
    machine.writer.transaction_log.journal.trim(9)
    machine.close()
    lines = [json.loads(line) for line in command("log", path, "--json").output.splitlines()]
    assert {line["sequence"]: line["state"] for line in lines} == {10: "held", 11: "held"}


def test_the_log_says_what_was_held(path: Path) -> None:
    machine = Machine(path)
    machine.quarantine("b")
    for context in ("a", "b", "mix(a:1,b:1)"):
        with contextlib.suppress(Quarantined):
            machine.update(context, [[1, 2, 3, 4]], [1])
    machine.release("b")
    machine.update("b", [[1, 2, 3, 4]], [1])
    machine.close()
    lines = [json.loads(line) for line in command("log", path, "--json", "--after", 8).output.splitlines()]
    assert [(line["kind"], line["tasks"], line["state"]) for line in lines] == [
        ("quarantine", "b", "applied"),
        ("update", "a", "applied"),
        ("update", "b", "held"),
        ("update", "a b", "held"),
        ("release", "b", "applied"),
        ("update", "b", "applied"),
    ]


def digest(path: Path) -> str:
    machine = Machine(path)
    try:
        return machine.store.digest()
    finally:
        machine.close()


def test_a_good_directory(path: Path) -> None:
    found = command("verify", path)
    assert found.exit_code == 0
    assert "journal: good: records 1 to 8, 1 rollbacks" in found.output
    assert "recovery: good: 5 records replayed" in found.output
    assert found.output.count("ok    snapshot") == 2


def test_verify_changes_nothing(path: Path) -> None:
    before = digest(path)
    command("verify", path)
    assert digest(path) == before


def test_a_damaged_snapshot(path: Path) -> None:
    newest = max((path / "snapshots").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    found = command("verify", path)
    assert found.exit_code == 1
    assert f"WRONG snapshot {newest.stem}" in found.output
    assert "move its two files away" in found.output
    assert "recovery: good" in found.output


def test_the_newest_good_snapshot_is_exported(path: Path) -> None:
    both = command("export", path, path.with_name("both"), "--snapshot", "--sequence", "2")
    assert "not both" in str(both.exception)
    newest = max((path / "snapshots").glob("*.safetensors"))
    newest.unlink()
    newest.mkdir()  # it cannot be read
    assert "0 tasks after record 0" in command("export", path, path.with_name("taken"), "--snapshot").output


def test_a_task_for_the_hugging_face_hub(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    assert "model.onnx" in command("export", path, folder, "--hub-layout", "a").output
    head = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert head["pipeline_tag"] == "tabular-classification"
    assert 0 <= head["model-index"][0]["results"][0]["metrics"][0]["value"] <= 1
    assert json.loads((folder / "config.json").read_text())["loss"] == "cross_entropy"
    model = RetrievedModel.from_bytes((folder / "model.safetensors").read_bytes())
    rows = np.random.default_rng(0).normal(size=(5, len(model.tensors["input.offset"])))
    found = InferenceSession(folder / "model.onnx").run(["probabilities"], {"rows": rows.astype(np.float32)})[0]
    with torch.inference_mode():
        assert np.abs(model.to_module()(torch.from_numpy(rows)).numpy() - found).max() < 1e-4
    assert "not empty" in str(command("export", path, folder, "--hub-layout", "a").exception)
    assert "no task" in str(command("export", path, tmp_path / "other", "--hub-layout", "nobody").exception)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("flags", [(), ("--hub-layout", "a")])
def test_an_export_that_cannot_be_written_is_an_expected_error(path: Path, tmp_path: Path, flags: tuple[str]) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path / "file" / "store", tmp_path / "file" if flags else tmp_path):
        error = command("export", path, target, *flags).exception
        assert isinstance(error, StorageUnavailable)
        assert "cannot write" in str(error)


def test_a_directory_that_cannot_be_opened_is_let_go(tmp_path: Path) -> None:
    (tmp_path / "snapshots").write_text("no directory")
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            DataDirectory(tmp_path)
    (tmp_path / "snapshots").unlink()
    DataDirectory(tmp_path).close()


def test_a_damaged_page(path: Path) -> None:
    data = bytearray((path / "journal.db").read_bytes())
    for place in (data.rindex(b'"context":"b"'), data.index(bytes(100), 4096)):  # one used, one unused byte
        data[place] ^= 1
        (path / "journal.db").write_bytes(data)
        data[place] ^= 1
        found = command("verify", path)
        assert found.exit_code == 1
        assert "WRONG journal: " in found.output
        assert "checksum" in found.output or "pages of journal.db" in found.output


def test_a_damaged_record(path: Path) -> None:
    forged = Database(path / "journal.db")  # as SQLite itself writes it, page checksums included
    with forged.transaction():
        forged.execute("UPDATE records SET head = replace(head, ?, ?) WHERE sequence = 8", ('"b"', '"a"'))
    forged.close()
    found = command("verify", path)
    assert found.exit_code == 1
    assert "WRONG journal: record 8 is missing or is not what was written" in found.output
    assert "superposed export" in found.output
    taken = command("export", path, path.with_name("taken"), "--snapshot")
    assert "2 tasks after record 3" in taken.output


def test_a_lost_journal(path: Path) -> None:
    (path / "journal.db").unlink()
    assert "has no journal" in command("verify", path).output
    shutil.rmtree(path / "snapshots")
    assert command("verify", path).exit_code == 1


def test_the_log_for_machines_leaves_nothing_out(path: Path) -> None:
    machine = Machine(path)
    for _ in range(50):
        machine.update("b", [[1, 2, 3, 4]], [1])
    machine.close()
    assert len(command("log", path, "--json").output.splitlines()) == 58
    assert "8 more: --after 50" in command("log", path).output
    newest = [json.loads(line)["sequence"] for line in command("log", path, "--json", "--tail", 3).output.splitlines()]
    assert newest == [56, 57, 58]


def test_the_log(path: Path) -> None:
    lines = [json.loads(line) for line in command("log", path, "--json").output.splitlines()]
    assert [line["sequence"] for line in lines] == list(range(1, 9))
    assert [line["kind"] for line in lines] == [
        "register", "register", "update", "update", "update", "refusal", "rollback", "update",
    ]  # fmt: skip
    assert [line["state"] for line in lines] == ["applied"] * 3 + ["not applied"] * 2 + ["applied"] * 3
    assert lines[3]["tasks"] == "a b"
    shown = command("log", path, "--limit", 2).output
    assert "register" in shown
    assert "6 more: --after 2" in shown


def test_out_and_in_again(path: Path) -> None:
    file = path.with_name("store.safetensors")
    assert "2 tasks after record 8" in command("export", path, file).output
    imported = command("import", path.with_name("copy"), file)
    assert imported.exit_code == 0
    assert "no API keys" in imported.output
    assert digest(path.with_name("copy")) == digest(path)
    copy = Machine(path.with_name("copy"))
    assert copy.update("a", [[1, 2, 3, 4]], [1])["sequence"] == 9
    copy.close()
    again = command("import", path, file)
    assert "holds a store already" in str(again.exception)


def test_as_it_was(path: Path) -> None:
    command("export", path, path.with_name("file"), "--sequence", 3)
    command("import", path.with_name("past"), path.with_name("file"))
    machine = Machine(path)
    machine.roll_back(to_sequence=3)
    machine.store.sequence = 3
    assert digest(path.with_name("past")) == machine.store.digest()
    machine.close()
    assert "0 to 9" in str(command("export", path, path.with_name("file"), "--sequence", 99).exception)


def test_mistakes(tmp_path: Path) -> None:
    assert "no such directory" in str(command("verify", tmp_path / "nothing").exception)
    assert "cannot read" in str(command("import", tmp_path / "d", tmp_path / "nothing").exception)
