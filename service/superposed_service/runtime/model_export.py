"""Models as files: safetensors and ONNX."""

import asyncio
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from superposed.analysis.onnx_export import to_onnx
from superposed.analysis.retrieval import RetrievedModel, retrieve_model
from superposed.config import NetworkConfig
from superposed.errors import ConfigError
from superposed.store.store import WeightStore
from superposed.tasks.schema import TaskSchema
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
    model, schema, rows, config = await runtime.engine.call(lambda store: _take(store, context))
    file = runtime.encoders.model_file(schema.encoder) if encoder else None
    make = partial(to_onnx, model, config=config, encoder=file, int8=int8, rows=rows)
    return await asyncio.to_thread(make)


def _take(store: WeightStore, context: object) -> tuple[RetrievedModel, TaskSchema, NDArray[np.float64], NetworkConfig]:
    """Return a model as it is now, its task's schema and kept rows, and the store's network."""
    schema = store.resolve(context).task.schema
    rows, _ = store.replay_buffer.rows_of(schema.key, schema.inputs)
    return retrieve_model(store, context), schema, rows, store.config.network
