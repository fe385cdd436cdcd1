"""Follows service/Dockerfile without an engine: each line in a clean directory and a fresh venv.

COPY copies, RUN runs with the venv first on the path, ENTRYPOINT and CMD are started with /data mapped into
the clean directory, and HEALTHCHECK must pass against it. What only an engine can do (FROM, users, ports,
volumes) is named and passed over.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PASSED_OVER = {"FROM", "USER", "VOLUME", "EXPOSE"}


def instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


class Follower:
    def __init__(self, root: Path) -> None:
        self.root, self.workdir = root, root
        venv.create(root / "venv", with_pip=True)
        (root / "data").mkdir(mode=0o700)
        self.environment = os.environ | {"PATH": f"{root / 'venv' / 'bin'}:{os.environ['PATH']}"}
        self.commands: dict[str, list[str]] = {}

    def follow(self, instruction: str, rest: str) -> None:
        print(f"{instruction} {rest}", flush=True)
        if instruction in {"ARG", "ENV"}:
            name, _, value = rest.partition("=")
            self.environment[name] = value.strip('"')
        elif instruction == "WORKDIR":
            self.workdir = self.root / rest.lstrip("/")
            self.workdir.mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                self.copy(ROOT / source, self.workdir / target)
        elif instruction == "RUN" and "useradd" not in rest:
            subprocess.run(["sh", "-c", rest], cwd=self.workdir, env=self.environment, check=True)
        elif instruction in {"ENTRYPOINT", "CMD"}:
            self.commands[instruction] = json.loads(rest)
        elif instruction == "HEALTHCHECK":
            self.commands[instruction] = json.loads(rest[rest.index("CMD") + 3 :])
        else:
            assert instruction in PASSED_OVER or "useradd" in rest, instruction
            print("  (passed over: needs an engine)")

    def copy(self, source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)

    def serve(self) -> None:
        command = [*self.commands["ENTRYPOINT"], *self.commands["CMD"]]
        command = [word.replace("/data", str(self.root / "data")) for word in command]
        process = subprocess.Popen(command, cwd=self.root / "data", env=self.environment)
        try:
            for _ in range(120):
                assert process.poll() is None, "the service ended"
                healthy = subprocess.run(
                    self.commands["HEALTHCHECK"], env=self.environment, capture_output=True, check=False
                )
                if healthy.returncode == 0:
                    print("HEALTHCHECK passes")
                    return
                time.sleep(0.5)
            raise AssertionError(healthy.stderr.decode())
        finally:
            process.terminate()
            assert process.wait(60) in {0, -15}
            assert len(list((self.root / "data" / "snapshots").glob("*.json"))) >= 1


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="superposed-image-") as folder:
        follower = Follower(Path(folder))
        for instruction, rest in instructions((ROOT / "service" / "Dockerfile").read_text()):
            follower.follow(instruction, rest)
        follower.serve()
    print("every line followed")


if __name__ == "__main__":
    sys.exit(main())
