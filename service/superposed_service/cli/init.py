"""`superposed init`: make a data directory."""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from superposed.errors import ConfigError
from superposed_service.cli.arguments import Directory


def _numbers(text: str, flag: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",") if number)
    except ValueError:
        raise ConfigError(f"{flag} is a list of numbers", expected="for example 256,256", received=text) from None


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that were given."""
    return {name: value for name, value in values.items() if value is not None}


def init(
    directory: Directory,
    preset: Annotated[str | None, typer.Option(help="Preset: general, users, texts, images or paper.")] = None,
    network: Annotated[str | None, typer.Option(help="Network of the store: mlp, convnet or resnet18.")] = None,
    module: Annotated[
        str | None,
        typer.Option(
            help="A network of your own instead: package:function, which returns a torch module of Linear and"
            " Conv2d layers, activations, GroupNorm and LayerNorm. Recurrent, attention and embedding layers,"
            " BatchNorm and dropout are refused."
        ),
    ] = None,
    input_shape: Annotated[str | None, typer.Option(help="Shape of a row of images, for example 1,28,28.")] = None,
    inputs: Annotated[int | None, typer.Option(help="Number of features of the widest task.")] = None,
    hidden: Annotated[str | None, typer.Option(help="Units of each hidden layer of an mlp, with commas.")] = None,
    outputs: Annotated[int | None, typer.Option(help="Number of outputs of the largest task.")] = None,
    expansion: Annotated[int | None, typer.Option(help="Number of blocks of the output layer's context.")] = None,
    family: Annotated[str | None, typer.Option(help="Contexts: phase, binary, complex, cyclic or rotation.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Optimizer: rmsprop, adam or sgd.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The optimizer's learning rate.")] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SPEC", help="Encoder: sentence-transformers:MODEL, hash:WIDTH or pixels:1x28x28."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, for example rehearsal.rows_per_task=0."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Number that the secret is made from, for experiments.")] = None,
) -> None:
    """Make a new store in DIR: a preset's settings, and over them those that are given.

    The preset is that of SUPERPOSED_PRESET, or general. --encoder and --set may be repeated; `GET /v1/store` shows all
    settings.
    """
    from superposed.config import StoreConfig
    from superposed.contexts import seeded_secret
    from superposed_service.cli.new_store import begin_store, default_encoders
    from superposed_service.cli.settings_loader import configure
    from superposed_service.storage import DataDirectory

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
    defaults, _ = configure()
    config = StoreConfig.of_preset(preset or defaults.preset, values)
    specs = default_encoders(config) if encoder is None else _named(encoder)
    with DataDirectory(directory) as opened:
        secret = None if seed is None else seeded_secret(seed)
        begin_store(opened, config, specs, secret=secret, widen=inputs is None)
    if seed is not None:
        Console(stderr=True).print("Its secret is made from --seed: it protects nothing.", style="yellow")


def _set(values: dict[str, Any], setting: str) -> None:
    """Put a setting, such as `optimizer.steps=1`, into nested values."""
    path, equals, text = setting.partition("=")
    *groups, name = path.split(".")
    group = values.setdefault(groups[0], {}) if groups else values
    if not (equals and name and isinstance(group, dict)) or len(groups) > 1:
        raise ConfigError("--set names a setting", expected="for example optimizer.steps=1", received=setting)
    try:
        group[name] = json.loads(text)
    except ValueError:
        group[name] = text


def _named(encoders: Sequence[str]) -> dict[str, str]:
    """Return specifications by name, checked before the name is a folder's."""
    from superposed.config import ENCODER_NAME

    specs: dict[str, str] = {}
    for text in encoders:
        name, equals, spec = text.partition("=")
        if not (equals and spec and re.fullmatch(ENCODER_NAME, name)) or name in specs:
            raise ConfigError("--encoder names an encoder, each once", expected="for example texts=hash", received=text)
        specs[name] = spec
    return specs
