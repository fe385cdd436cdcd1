"""Imports what a server needs, also at its first update; starts no threads, so that forking is safe."""

from __future__ import annotations

import torch

import superposed_service.api.app
import superposed_service.cli.commands
import superposed_service.cli.serve  # noqa: F401
from superposed import WeightStore

torch.set_num_threads(1)
WeightStore()  # the first optimizer makes torch import a second's worth of modules
