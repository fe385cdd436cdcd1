"""`superposed init`: make a data directory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from superposed.config import ENCODER_NAME, PRESET_ENCODERS, StoreConfig
from superposed.contexts import seeded_secret
from superposed.encoders import describe
from superposed.errors import ConfigError
from superposed.store.store import WeightStore
from superposed_service.changes.snapshot import begin
from superposed_service.cli.settings_loader import configure
from superposed_service.storage import DataDirectory

_console = Console(stderr=True)
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The data directory.")]


def _numbers(text: str, flag: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",") if number)
    except ValueError:
        raise ConfigError(
            f"{flag} is a list of numbers", expected="for example 256,256", received=text
        ) from None


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that were given."""
    return {name: value for name, value in values.items() if value is not None}


def init(
    directory: Directory,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Settings to start from: general, users, texts, images or paper; default: SUPERPOSED_PRESET."
        ),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Network of the store: mlp, convnet or resnet18.")
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            help="A network of your own instead: package:function, which returns a torch module of Linear and"
            " Conv2d layers, activations, GroupNorm and LayerNorm. Recurrent, attention and embedding layers,"
            " BatchNorm and dropout are refused."
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(help="Shape of a row for networks of images and --module, for example 1,28,28."),
    ] = None,
    inputs: Annotated[int | None, typer.Option(help="Number of features of the widest task.")] = None,
    hidden: Annotated[
        str | None, typer.Option(help="Units of each hidden layer of an mlp, with commas.")
    ] = None,
    outputs: Annotated[int | None, typer.Option(help="Number of outputs of the largest task.")] = None,
    expansion: Annotated[
        int | None,
        typer.Option(help="Number of blocks of the output layer's context: more blocks, less interference."),
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Context family: phase, binary, complex, cyclic or rotation.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="Optimizer: rmsprop, adam or sgd.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The optimizer's learning rate.")] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SPEC",
            help="An encoder of texts or images: sentence-transformers:MODEL, hash:WIDTH or pixels:1x28x28; "
            "may be repeated. Default: the preset's.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting of the store, for example rehearsal.rows_per_task=0 or"
            " network.activation=silu; may be repeated. `GET /v1/store` shows all of them.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Number that the secret is made from, for tests and experiments only.")
    ] = None,
) -> None:
    """Make a new store in DIR: a preset's settings, and over them those that are given."""
    if module is not None and input_shape is None:
        raise ConfigError("--module needs the shape of a row", expected="--input-shape, for example 1,28,28")
    given_network = _given(
        kind=network if module is None else "module",
        factory=module,
        inputs=inputs,
        input_shape=None if input_shape is None else _numbers(input_shape, "--input-shape"),
        hidden=None if hidden is None else _numbers(hidden, "--hidden"),
        outputs=outputs,
        expansion=expansion,
    )
    optimizer_given = _given(name=optimizer, learning_rate=learning_rate)
    values = _given(family=family) | {"network": given_network, "optimizer": optimizer_given}
    for setting in settings or ():
        _set(values, setting)
    config = StoreConfig.of_preset(preset or configure().settings.preset, values)
    specs = default_encoders(config) if encoder is None else _named(encoder)
    with DataDirectory(directory) as opened:
        secret = None if seed is None else seeded_secret(seed)
        begin_store(opened, config, specs, secret=secret, widen=inputs is None)
    if seed is not None:
        _console.print("Its secret is made from --seed: it protects nothing.", style="yellow")


def _set(values: dict[str, Any], setting: str) -> None:
    """Put a setting, such as `optimizer.steps=1`, into nested values."""
    path, equals, text = setting.partition("=")
    *groups, name = path.split(".")
    if not (equals and name) or len(groups) > 1:
        raise ConfigError("--set names a setting", expected="for example optimizer.steps=1", received=setting)
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    for group in groups:
        values = values.setdefault(group, {})
    values[name] = value


def _named(encoders: Sequence[str]) -> dict[str, str]:
    """Return specifications by name, checked before the name is a folder's."""
    specs: dict[str, str] = {}
    for text in encoders:
        name, equals, spec = text.partition("=")
        if not (equals and spec and re.fullmatch(ENCODER_NAME, name)) or name in specs:
            raise ConfigError(
                "--encoder names an encoder, each once", expected="for example texts=hash", received=text
            )
        specs[name] = spec
    return specs


def default_encoders(config: StoreConfig) -> dict[str, str]:
    """Return the encoders of a new store with a preset: of images those that its network takes."""
    specs, network = dict(PRESET_ENCODERS.get(config.preset or "", {})), config.network
    if "images" in specs and network.kind != "mlp":
        specs["images"] = "pixels:" + "x".join(map(str, network.input_shape))
    return specs


def begin_store(
    directory: DataDirectory,
    config: StoreConfig,
    specs: Mapping[str, str],
    *,
    secret: bytes | None = None,
    widen: bool = True,
) -> None:
    """Make a store in an empty directory, and say which.

    Args:
        directory: The directory.
        config: Of the store, without its encoders.
        specs: Its encoders, by name.
        secret: The store's; None for a random one.
        widen: Whether an mlp gets as many inputs as its widest encoder makes.
    """
    directory.check_untouched()
    folder = directory.path / "encoders"
    encoders = {name: describe(spec, folder / name) for name, spec in specs.items()}
    widest = max((one.width for one in encoders.values()), default=0)
    if widen and config.network.kind == "mlp" and config.network.inputs < widest:
        config = config.replace(network=config.network.model_dump() | {"inputs": widest})
    store = WeightStore(config.replace(encoders=encoders), secret=secret)
    begin(directory, store)
    _console.print(
        f"A new store in {directory.path}, preset {config.preset}: {config.family} contexts, "
        f"{store.weight_bytes:,} bytes of weights, however many tasks.",
        highlight=False,
        soft_wrap=True,
    )
    for name, one in encoders.items():
        _console.print(f"Encoder {name}: {one.kind} by {one.spec}, {one.width} numbers.", soft_wrap=True)
