"""A task's model as an ONNX file: scaling, network, probabilities and labels in one graph.

Needs the packages `onnx` and `onnxscript`, for 8-bit weights `onnxruntime`: `pip install 'superposed[onnx]'`.
"""

import json
import logging
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from superposed.analysis.retrieval import RetrievedModel
from superposed.config import NetworkConfig
from superposed.errors import ConfigError
from superposed.nn import plain_network

_MOST_ROWS = 2**20
# One export at a time: what is warned of is a matter of the whole process.
_exporting = threading.Lock()


def to_onnx(
    model: RetrievedModel,
    *,
    config: NetworkConfig | None = None,
    encoder: Path | None = None,
    int8: bool = False,
    rows: NDArray[np.float64] | None = None,
) -> bytes:
    """Return an ONNX file of a model.

    Its input is `rows` (B, inputs) float32, of records their numbers in the order of the metadata's features and NaN
    where one is missing, or the encoder's, where one comes with it; its outputs are `probabilities` (B, classes) and
    `label` (B,), or `values` (B, outputs), float32. The file's metadata has the model's.

    Args:
        model: The model.
        config: Configuration of the store's network, which is needed where that is the user's own.
        encoder: An ONNX file of an encoder, whose output becomes `rows`.
        int8: Whether the network's weights are rounded to 8 bits.
        rows: (N, inputs), as they are encoded; on them the metadata's `int8_agreement` is measured: the share of
            rows that have the label that they have without rounding.

    Raises:
        ConfigError: A package is missing; or as `RetrievedModel.to_module`.
    """
    try:
        import onnx.compose
        import onnxscript  # noqa: F401 - torch's export needs it
    except ModuleNotFoundError as error:
        problem = "ONNX files need packages that are not installed"
        raise ConfigError(problem, expected="pip install 'superposed[onnx]'", received=error.name) from None
    classifies, labels = model.metadata["loss"] == "cross_entropy", model.metadata["labels"]
    name = "probabilities" if classifies else "values"
    if others := [one for one, kind in model.metadata.get("features", ()) if kind != "number"]:
        problem = "records with categories or dates are read by no graph"
        raise ConfigError(problem, expected="numbers only", received=", ".join(others))
    network = plain_network(config) if config is not None and config.kind == "module" else None
    graph = _exported(model.to_module(network), model.width, name)
    if classifies:
        _add_labels(graph.graph, labels)
    metadata: dict[str, Any] = dict(model.metadata)
    if int8:
        exact, graph = graph, _in_8_bits(graph)
        if classifies and rows is not None and len(rows):
            metadata |= _agreement(exact, graph, rows[:, : model.width])
    if encoder is not None:
        prefixed = onnx.compose.add_prefix(onnx.load(encoder), "encoder/", rename_inputs=False, rename_outputs=False)
        prefixed.ir_version = graph.ir_version
        graph = onnx.compose.merge_models(prefixed, graph, io_map=[("vectors", "rows")])
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    data: bytes = graph.SerializeToString()
    return data


def _exported(module: nn.Module, inputs: int, name: str) -> Any:
    log = logging.getLogger("torch.onnx")
    with _exporting, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = log.level
        log.setLevel(logging.ERROR)  # it tells of packages that it does without
        try:
            program: Any = torch.onnx.export(
                module.eval(),
                (torch.zeros(2, inputs),),
                input_names=["rows"],
                output_names=[name],
                dynamic_shapes=({0: torch.export.Dim("rows", max=_MOST_ROWS)},),
                verbose=False,
                dynamo=True,
            )
        finally:
            log.setLevel(level)
    return program.model_proto


def _add_labels(graph: Any, labels: list[Any] | None) -> None:
    """Have a graph answer with labels too; with class indexes where the task has none."""
    from onnx import TensorProto, helper, numpy_helper

    index = helper.make_node("ArgMax", ["probabilities"], ["index" if labels else "label"], axis=1, keepdims=0)
    graph.node.append(index)
    kind: int = TensorProto.INT64
    if labels:
        values = np.asarray(labels, dtype=object if isinstance(labels[0], str) else None)
        constant = numpy_helper.from_array(values, "labels")
        kind = constant.data_type
        graph.initializer.append(constant)
        graph.node.append(helper.make_node("Gather", ["labels", "index"], ["label"]))
    graph.output.append(helper.make_tensor_value_info("label", kind, ["rows"]))


def _in_8_bits(graph: Any) -> Any:
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    graph.metadata_props.add(key="onnx.quant.pre_process", value="torch")  # else it asks for another optimizer's
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantize_dynamic(graph, file)
        return onnx.load(file)


def _agreement(exact: Any, rounded: Any, rows: NDArray[np.float64]) -> dict[str, Any]:
    from onnxruntime import InferenceSession

    feeds = {"rows": rows.astype(np.float32)}
    first, second = (
        InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(["label"], feeds)[0]
        for graph in (exact, rounded)
    )
    return {"int8_agreement": float((first == second).mean()), "int8_rows": len(rows)}
