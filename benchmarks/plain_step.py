"""The plain training step that updates are measured against."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from benchmarks.forward import INPUTS, OUTPUTS, plain_network


class PlainStep:
    """One step of an ordinary network of three layers of 256, by torch's fastest optimizer on a CPU.

    Rows and classes are tensors that are there already; nothing is checked, counted or kept.
    That optimizer is fused Adam.
    """

    def __init__(self, rows: int) -> None:
        self._network = plain_network(256).train()
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=1e-3, fused=True)
        self._rows, self._classes = torch.randn(rows, INPUTS), torch.randint(0, OUTPUTS, (rows,))

    def __call__(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self._network(self._rows), self._classes)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        self._optimizer.step()

    def per_s(self, seconds: float) -> float:
        """Steps a second."""
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            self()
            count += 1
        return count / (time.perf_counter() - started)
