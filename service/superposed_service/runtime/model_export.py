"""Models as files of other formats, made beside the engine."""

import asyncio
from collections.abc import Callable
from typing import Literal

from superposed.analysis.onnx_export import to_onnx
from superposed.analysis.retrieval import retrieve_model
from superposed.errors import ConfigError
from superposed.nn import plain_network
from superposed.store.store import WeightStore
from superposed_service.runtime.runtime import Runtime

Format = Literal["safetensors", "onnx"]


async def model_file(runtime: Runtime, context: object, form: Format, *, encoder: bool, int8: bool) -> bytes:
    """Return a context's model as a file, with the encoder of its texts, and its weights in 8 bits, where asked for.

    Raises as `retrieve_model` and `to_onnx`; `ConfigError` for an encoder that cannot come with it, or a
    safetensors file with either.
    """
    if form == "safetensors":
        if encoder or int8:
            raise ConfigError("a safetensors file has neither an encoder nor 8 bits", expected="format=onnx")
        return await runtime.engine.call(lambda store: retrieve_model(store, context).to_bytes())
    make, name = await runtime.engine.call(lambda store: _taken(store, context, int8))
    file = runtime.encoders.model_file(name) if encoder else None
    return await asyncio.to_thread(make, file)


def _taken(store: WeightStore, context: object, int8: bool) -> tuple[Callable[..., bytes], str | None]:
    """Return what makes the file of a model as it is now, and the name of its task's encoder."""
    model, task = retrieve_model(store, context), store.resolve(context).task
    config, rows = store.config.network, store.replay_buffer.rows_of(task.schema.key, task.schema.inputs)[0]

    def make(encoder: object) -> bytes:
        network = plain_network(config) if config.kind == "module" else None
        return to_onnx(model, network=network, encoder=encoder, int8=int8, rows=rows)  # type: ignore[arg-type]

    return make, task.schema.encoder
