"""`superposed init`: make a data directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from superposed.config import MLPConfig, RehearsalConfig, StoreConfig, validated
from superposed.contexts import seeded_secret
from superposed.errors import ConfigError
from superposed.store.store import WeightStore
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The data directory.")]


def _numbers(text: str, flag: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",") if number)
    except ValueError:
        raise ConfigError(
            f"{flag} is a list of numbers", expected="for example 256,256", received=text
        ) from None


def _network(
    kind: str, mlp: dict[str, Any], outputs: int, module: str | None, input_shape: str | None
) -> dict[str, Any]:
    """Return the network's configuration, from the flags that its kind has."""
    values: dict[str, Any] = {"kind": kind, "outputs": outputs}
    if kind == "mlp":
        return values | mlp
    if kind == "module" and input_shape is None:
        raise ConfigError(
            "--module needs the shape of a row",
            expected="--input-shape, for example 1,28,28",
            received="none",
        )
    if input_shape is not None:
        values["input_shape"] = _numbers(input_shape, "--input-shape")
    return values | ({"factory": module} if module else {})


def init(
    directory: Directory,
    network: Annotated[str, typer.Option(help="Network of the store: mlp, convnet or resnet18.")] = "mlp",
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
    inputs: Annotated[int, typer.Option(help="Number of features of the widest task.")] = 784,
    hidden: Annotated[
        str, typer.Option(help="Units of each hidden layer of an mlp, with commas.")
    ] = "256,256,256",
    activation: Annotated[
        str, typer.Option(help="Activation of an mlp's hidden layers: relu, gelu, silu or tanh.")
    ] = MLPConfig().activation,
    normalisation: Annotated[
        str, typer.Option(help="Normalisation of an mlp's hidden layers: layer or none.")
    ] = MLPConfig().normalisation,
    outputs: Annotated[int, typer.Option(help="Number of outputs of the largest task.")] = 10,
    family: Annotated[
        str, typer.Option(help="Context family: phase, binary, complex, cyclic or rotation.")
    ] = "phase",
    optimizer: Annotated[str, typer.Option(help="Optimizer: rmsprop, adam or sgd.")] = "rmsprop",
    learning_rate: Annotated[float, typer.Option(help="The optimizer's learning rate.")] = 3e-5,
    context_bytes: Annotated[
        int, typer.Option(help="Largest memory of materialised contexts in bytes.")
    ] = StoreConfig().context_table_bytes,
    rehearsal_rows: Annotated[
        int, typer.Option(help="Number of rows kept of each task for rehearsal; 0 turns rehearsal off.")
    ] = RehearsalConfig().rows_per_task,
    rehearsal_ratio: Annotated[
        float, typer.Option(help="Number of kept rows learned with each new row.")
    ] = RehearsalConfig().ratio,
    rehearsal_bytes: Annotated[
        int, typer.Option(help="Largest memory of all kept rows in bytes.")
    ] = RehearsalConfig().max_bytes,
    rehearsal_logits: Annotated[
        float, typer.Option(help="Weight (0 to 1) of the logit-matching loss for rehearsed rows (DER++).")
    ] = RehearsalConfig().logit_share,
    seed: Annotated[
        int | None, typer.Option(help="Number that the secret is made from, for tests and experiments only.")
    ] = None,
) -> None:
    """Make a new store in DIR. The defaults make a good store for MNIST-sized tasks."""
    mlp = {
        "inputs": inputs,
        "hidden": _numbers(hidden, "--hidden"),
        "activation": activation,
        "normalisation": normalisation,
    }
    values: dict[str, Any] = {
        "network": _network("module" if module else network, mlp, outputs, module, input_shape),
        "family": family,
        "optimizer": {"name": optimizer, "learning_rate": learning_rate},
        "context_table_bytes": context_bytes,
        "rehearsal": {
            "rows_per_task": rehearsal_rows,
            "ratio": rehearsal_ratio,
            "max_bytes": rehearsal_bytes,
            "logit_share": rehearsal_logits,
        },
    }
    config = validated(StoreConfig, values)
    store = WeightStore(config, secret=None if seed is None else seeded_secret(seed))
    with DataDirectory(directory) as opened:
        begin(opened, store)
    console = Console(stderr=True)
    console.print(
        f"A new store in {directory}: {family}, {store.weight_bytes:,} bytes of weights, however many tasks.",
        highlight=False,
    )
    if seed is not None:
        console.print("Its secret is made from --seed: it protects nothing.", style="yellow")
