"""`superposed init`: make a data directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from superposed.config import StoreConfig
from superposed.contexts import seeded_secret
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
    activation: Annotated[
        str | None, typer.Option(help="Activation of an mlp's hidden layers: relu, gelu, silu or tanh.")
    ] = None,
    normalisation: Annotated[
        str | None, typer.Option(help="Normalisation of an mlp's hidden layers: layer or none.")
    ] = None,
    outputs: Annotated[int | None, typer.Option(help="Number of outputs of the largest task.")] = None,
    expansion: Annotated[
        int | None,
        typer.Option(help="Number of blocks of the output layer's context: more blocks, less interference."),
    ] = None,
    output_layer: Annotated[
        str | None, typer.Option(help="Name of the output layer that --expansion widens, with --module.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Context family: phase, binary, complex, cyclic or rotation.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="Optimizer: rmsprop, adam or sgd.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The optimizer's learning rate.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of optimizer steps of an update that states none.")
    ] = None,
    context_bytes: Annotated[
        int | None, typer.Option(help="Largest memory of materialised contexts in bytes.")
    ] = None,
    rehearsal_rows: Annotated[
        int | None,
        typer.Option(help="Number of rows kept of each task for rehearsal; 0 turns rehearsal off."),
    ] = None,
    rehearsal_ratio: Annotated[
        float | None, typer.Option(help="Number of kept rows of other tasks learned with each new row.")
    ] = None,
    rehearsal_own_ratio: Annotated[
        float | None, typer.Option(help="Number of the task's own kept rows learned with each new row.")
    ] = None,
    rehearsal_least: Annotated[
        int | None, typer.Option(help="Smallest number of kept rows of each sort in an update.")
    ] = None,
    rehearsal_bytes: Annotated[
        int | None, typer.Option(help="Largest memory of all kept rows in bytes.")
    ] = None,
    rehearsal_logits: Annotated[
        float | None,
        typer.Option(help="Weight (0 to 1) of the logit-matching loss for rehearsed rows (DER++)."),
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
        activation=activation,
        normalisation=normalisation,
        outputs=outputs,
        expansion=expansion,
        output_layer=output_layer,
    )
    rehearsal = _given(
        rows_per_task=rehearsal_rows,
        ratio=rehearsal_ratio,
        own_ratio=rehearsal_own_ratio,
        least_rows=rehearsal_least,
        max_bytes=rehearsal_bytes,
        logit_share=rehearsal_logits,
    )
    values = _given(family=family, context_table_bytes=context_bytes) | {
        "network": given_network,
        "optimizer": _given(name=optimizer, learning_rate=learning_rate, steps=steps),
        "rehearsal": rehearsal,
    }
    config = StoreConfig.of_preset(preset or configure().settings.preset, values)
    with DataDirectory(directory) as opened:
        begin_store(opened, config, secret=None if seed is None else seeded_secret(seed))
    if seed is not None:
        _console.print("Its secret is made from --seed: it protects nothing.", style="yellow")


def begin_store(directory: DataDirectory, config: StoreConfig, secret: bytes | None = None) -> None:
    """Make a store in an empty directory, and say which."""
    store = WeightStore(config, secret=secret)
    begin(directory, store)
    _console.print(
        f"A new store in {directory.path}, preset {config.preset}: {config.family} contexts, "
        f"{store.weight_bytes:,} bytes of weights, however many tasks.",
        highlight=False,
    )
