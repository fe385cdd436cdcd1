"""Tensors and JSON metadata in one safetensors file, written whole or not at all."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from superposed.errors import ConfigError

METADATA_KEY = "superposed"


def dump(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """Serialise tensors with one metadata entry, `superposed`, in canonical JSON."""
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {METADATA_KEY: text})


def parse(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the inverse of `dump`; raise `ConfigError` where the bytes are no such file."""
    try:
        tensors = load(data)
        (length,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][METADATA_KEY])
        if not isinstance(metadata, dict):
            raise TypeError(f"the metadata is of the type {type(metadata).__name__}")
    except (SafetensorError, struct.error, KeyError, ValueError, TypeError, RecursionError) as error:
        expected = "safetensors with metadata that is a JSON object"
        raise ConfigError("not a file of this library", expected=expected, received=str(error)) from error
    return tensors, metadata


def json_tensor(values: Mapping[str, Any]) -> Tensor:
    """Return canonical JSON as a tensor (length,) uint8, for values that may outgrow a file's header."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def write(path: str | Path, data: bytes) -> None:
    """Replace a file durably: temporary file, fsync, rename, fsync of the directory; mode 0600."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk (fsync)."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
