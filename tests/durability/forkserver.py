"""Starts servers fast: one process imports everything once, and forks a server for each line it reads.

Reads JSON lines from stdin: `{"serve": directory, "host": address, "port": n, "settings": {...}}` answers with a
process id, `{"wait": pid}` with its exit status. Has no threads, so that forking is safe.
"""

from __future__ import annotations

import json
import logging.config
import os
import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn

from superposed import WeightStore
from superposed_service.api.app import create_app
from superposed_service.observability.logs import logging_config
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory


def serve(command: dict[str, Any]) -> None:
    path = Path(command["serve"])
    log = os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    settings = Settings(threads=1, **command["settings"])
    logging.config.dictConfig(logging_config(settings))
    with DataDirectory(path, snapshots_kept=settings.snapshots_kept) as directory:
        app = create_app(settings, directory)
        uvicorn.run(app, host=command["host"], port=command["port"], log_level="warning", timeout_graceful_shutdown=10)


def answer(command: dict[str, Any]) -> int:
    if "wait" in command:
        return os.waitstatus_to_exitcode(os.waitpid(command["wait"], 0)[1])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            serve(command)
            status = 0
        except Exception as error:  # noqa: BLE001 - the log says it, the status tells
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return pid


if __name__ == "__main__":
    torch.set_num_threads(1)
    WeightStore()  # the first optimizer makes torch import a second's worth of modules
    for line in sys.stdin:
        print(answer(json.loads(line)), flush=True)
