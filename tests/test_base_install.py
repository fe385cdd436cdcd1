"""The base distribution is the client: no torch, no server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_base_install_is_the_client_alone(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(ROOT)], check=True, timeout=280
    )
    code = "import superposed_client as c; print(c.mixture({'a': 1}).form)"
    shown = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "mixture" in shown.stdout
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "torch" not in listed
    assert "fastapi" not in listed
    command = subprocess.run(
        [tmp_path / "venv" / "bin" / "superposed", "serve", "x"], capture_output=True, text=True, check=False
    )
    assert command.returncode == 1
    assert "pip install 'superposed[service]'" in command.stderr
    assert "Traceback" not in command.stderr
