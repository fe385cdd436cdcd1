"""The `superposed` command."""

from __future__ import annotations

import contextlib
import gc
import logging.config
import math
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from rich.console import Console

from superposed.config import MLPConfig, RehearsalConfig, StoreConfig, validated
from superposed.contexts import seeded_secret
from superposed.errors import ConfigError, SuperposedError
from superposed.store.store import WeightStore
from superposed_client import SuperposedError as ClientError
from superposed_service.addresses import check_addresses, joined
from superposed_service.app import create_api, guarded
from superposed_service.bench_command import bench
from superposed_service.config_commands import ConfigFile, config
from superposed_service.configuration import configure
from superposed_service.connections import allow_connections, bounded_protocol
from superposed_service.directory_commands import add_commands
from superposed_service.key_commands import keys
from superposed_service.observability.logs import logging_config
from superposed_service.serving import HttpServer
from superposed_service.snapshotting import begin
from superposed_service.storage import DataDirectory

__all__ = ["app", "run"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(keys, name="keys")
app.add_typer(config, name="config")
app.command("bench")(bench)
add_commands(app)
_console = Console(stderr=True)

# The event loop and the engine's thread take turns: with Python's own 5 ms, each product of the engine's
# would wait so long behind a flood of requests that are refused (docs/decisions/0020-overload.md).
_SWITCH_S = 0.0005

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The data directory.")]


def run() -> None:
    """Runs the command line; an expected error is one line and exit code 1."""
    try:
        app()
    except (SuperposedError, ClientError) as error:
        _console.print(f"superposed: {error}", style="red", markup=False, highlight=False)
        raise SystemExit(1) from None


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
    """The network's configuration, from the flags that its kind has."""
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


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("superposed"))
        raise typer.Exit


@app.callback()
def _superposed(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Many task models in one set of weights, each served and taught by its key."""


@app.command()
def init(
    directory: Directory,
    network: Annotated[str, typer.Option(help="What the store holds: mlp, convnet or resnet18.")] = "mlp",
    module: Annotated[
        str | None,
        typer.Option(
            help="A network of your own instead: package:function, which returns a torch module of Linear and"
            " Conv2d layers, activations, GroupNorm and LayerNorm. Recurrent, attention and embedding layers,"
            " BatchNorm and dropout are refused."
        ),
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="Of a row, for networks of images: 1,28,28 (and for --module).")
    ] = None,
    inputs: Annotated[int, typer.Option(help="Features of the widest task.")] = 784,
    hidden: Annotated[str, typer.Option(help="Units of each hidden layer of an mlp.")] = "256,256,256",
    activation: Annotated[
        str, typer.Option(help="Of an mlp's hidden layers: relu, gelu, silu or tanh.")
    ] = MLPConfig().activation,
    normalisation: Annotated[
        str, typer.Option(help="Of an mlp's hidden layers: layer or none.")
    ] = MLPConfig().normalisation,
    outputs: Annotated[int, typer.Option(help="Outputs of the largest task.")] = 10,
    family: Annotated[str, typer.Option(help="phase, binary, complex, cyclic or rotation.")] = "phase",
    optimizer: Annotated[str, typer.Option(help="rmsprop, adam or sgd.")] = "rmsprop",
    learning_rate: Annotated[float, typer.Option(help="The optimizer's learning rate.")] = 3e-5,
    context_bytes: Annotated[
        int, typer.Option(help="What materialised contexts may take up in memory.")
    ] = StoreConfig().context_table_bytes,
    rehearsal_rows: Annotated[
        int, typer.Option(help="Rows kept of each task and learned again beside others'; 0: none.")
    ] = RehearsalConfig().rows_per_task,
    rehearsal_ratio: Annotated[
        float, typer.Option(help="Kept rows that go with each new one.")
    ] = RehearsalConfig().ratio,
    rehearsal_bytes: Annotated[
        int, typer.Option(help="What all kept rows may take up.")
    ] = RehearsalConfig().max_bytes,
    rehearsal_logits: Annotated[
        float, typer.Option(help="Share of a kept row's loss that is the distance from its logits of then.")
    ] = RehearsalConfig().logit_share,
    seed: Annotated[
        int | None, typer.Option(help="Makes the secret from a number: for tests and experiments only.")
    ] = None,
) -> None:
    """Makes a new store in DIR. The defaults make a good store for MNIST-sized tasks."""
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
    _console.print(
        f"A new store in {directory}: {family}, {store.weight_bytes:,} bytes of weights, however many tasks.",
        highlight=False,
    )
    if seed is not None:
        _console.print("Its secret is made from --seed: it protects nothing.", style="yellow")


@app.command()
def serve(
    directory: Directory,
    file: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: 8000; 0: a free one.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; default: auto.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Speaks the Open Inference Protocol over gRPC too, on this port.")
    ] = None,
    allow_unauthenticated: Annotated[
        bool, typer.Option(help="Listen on other than loopback: something in front controls access.")
    ] = False,
) -> None:
    """Serves the store in DIR; makes one with the defaults where there is none."""
    given = {"host": host, "port": port, "device": device}
    settings = configure(file, **given).settings
    if grpc_port is not None:
        settings = settings.model_copy(update={"grpc_address": joined(settings.host, grpc_port)})
    logging.config.dictConfig(logging_config(settings))
    with DataDirectory(directory, snapshots_kept=settings.snapshots_kept) as opened:
        new = opened.untouched
        check_addresses(settings, allow_unauthenticated, not new and len(opened.ledger().api_keys) > 0)
        if new:
            begin(opened, WeightStore())
        api = create_api(settings, opened)
        allow_connections(settings)
        sys.setswitchinterval(_SWITCH_S)
        gc.freeze()  # what is there now stays: a full collection would hold requests up to look at it
        application, end_streams = guarded(api, settings, opened), api.state.events.close
        config = uvicorn.Config(
            application,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            http=bounded_protocol(settings),
            ws="none",
            proxy_headers=False,
            timeout_graceful_shutdown=30,
            timeout_keep_alive=math.ceil(settings.keep_alive_s),
        )
        server = HttpServer(config, end_streams)
        # The server passes the signal on once it has stopped; before it listens, the process just ends.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):  # raised again once the server has stopped
            server.run()
        if not server.started:
            raise typer.Exit(3)
        if opened.replaced:  # it was moved or replaced meanwhile: no snapshot was taken
            raise typer.Exit(4)


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="digits, or mnist where its files are present.")] = "digits",
    output: Annotated[Path, typer.Option(help="Where the picture and the figures go.")] = Path(
        "demo-results"
    ),
    keep: Annotated[
        bool | None, typer.Option(help="Leave the server running at the end; default: on a terminal.")
    ] = None,
) -> None:
    """Starts a server, teaches it real tasks one after another over HTTP, and shows what it remembers."""
    # Ended from outside, it still stops the server that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from superposed_service.demo import run_demo

    run_demo(data, output, keep=sys.stdout.isatty() if keep is None else keep)
