"""The store that `superposed init` makes, or `serve` in a new directory."""

from collections.abc import Mapping

from rich.console import Console

from superposed.config import PRESET_ENCODERS, StoreConfig
from superposed.encoders import describe
from superposed.store.store import WeightStore
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory


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

    The configuration has no encoders: `specs` has them, by name. Without a `secret` the store's is random. With
    `widen` an mlp gets as many inputs as its widest encoder makes.
    """
    directory.check_untouched()
    folder = directory.path / "encoders"
    encoders = {name: describe(spec, folder / name) for name, spec in specs.items()}
    widest = max((one.width for one in encoders.values()), default=0)
    if widen and config.network.kind == "mlp" and config.network.inputs < widest:
        config = config.replace(network=config.network.model_dump() | {"inputs": widest})
    store = WeightStore(config.replace(encoders=encoders), secret=secret)
    console = Console(stderr=True)
    begin(directory, store)
    size = f"{config.network.kind} with {store.weight_bytes:,} bytes of weights, however many tasks"
    text = f"A new store in {directory.path}, preset {config.preset}: {config.family} contexts, {size}."
    console.print(text, highlight=False, soft_wrap=True)
    for name, one in encoders.items():
        console.print(f"Encoder {name}: {one.kind} by {one.spec}, {one.width} numbers.", soft_wrap=True)
