"""Tests. Several processes share the machine: threads that wait for others must not keep the cores busy."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
