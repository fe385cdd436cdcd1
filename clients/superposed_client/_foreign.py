"""Other libraries: what their models answer to rows, and a task's model as a torch module."""

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MATRIX = 2


def optional(module: str, wanted: str, package: str) -> Any:
    """Return a module that not every installation has; a `ModuleNotFoundError` says how to install it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{wanted}: pip install {package}") from error


def answers_of(model: Any, rows: Any, labels: NDArray[Any] | None) -> NDArray[Any]:
    """Return a model's answers to rows (B, features): B labels, or values.

    Args:
        model: An object with `predict`; a torch module, or its state (linear layers with ReLU between); the
            path of an ONNX file with one input; or a function.
        rows: The rows.
        labels: The task's labels, in order, where scores of classes (B, classes) are answers; None for values.
    """
    if hasattr(model, "predict"):
        return np.asarray(model.predict(rows))
    if isinstance(model, str | os.PathLike):
        answers = _onnx_answers(os.fspath(model), rows)
    elif isinstance(model, Mapping):
        answers = _state_answers(model, np.asarray(rows, dtype=np.float64))
    elif hasattr(model, "state_dict"):
        answers = _module_answers(model, rows)
    else:
        answers = np.asarray(model(rows))
    if labels is None or answers.ndim != _MATRIX:
        return answers
    if answers.shape[1] != len(labels):
        raise ValueError(f"the model scores {answers.shape[1]} classes, and the task has {len(labels)} labels")
    chosen: NDArray[Any] = labels[answers.argmax(1)]
    return chosen


def _onnx_answers(path: str, rows: Any) -> NDArray[Any]:
    """Return the output named `label`, where there is one; else the first."""
    onnxruntime = optional("onnxruntime", "an ONNX file needs ONNX Runtime", "onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    dtype = np.float64 if "double" in session.get_inputs()[0].type else np.float32
    names = [one.name for one in session.get_outputs()]
    wanted = ["label" if "label" in names else names[0]]
    found = session.run(wanted, {session.get_inputs()[0].name: np.asarray(rows, dtype=dtype)})
    return np.asarray(found[0])


def _state_answers(state: Mapping[str, Any], signal: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = [(name, np.asarray(tensor)) for name, tensor in state.items() if name.endswith("weight")]
    if not weights or any(weight.ndim != _MATRIX for _, weight in weights):
        raise ValueError("a state of linear layers is wanted: of another network, give the module itself")
    for place, (name, weight) in enumerate(weights):
        signal = np.maximum(signal, 0.0) if place else signal
        signal = signal @ weight.T + np.asarray(state.get(name.removesuffix("weight") + "bias", 0.0))
    return signal


def _module_answers(module: Any, rows: Any) -> NDArray[Any]:
    import torch

    modes, parameter = {one: one.training for one in module.modules()}, next(module.parameters(), None)
    like = {} if parameter is None else {"dtype": parameter.dtype, "device": parameter.device}
    try:
        with torch.inference_mode():
            answers = module.eval()(torch.as_tensor(np.asarray(rows), **like))
    finally:  # of some layers the mode may be another
        for one, training in modes.items():
            one.training = training
    found: NDArray[Any] = answers.double().cpu().numpy()
    return found


def torch_module(data: bytes, network: Any) -> Any:
    """Return a module of a safetensors file that a server gave; see `RetrievedModel.to_module`."""
    try:
        from superposed import RetrievedModel
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a torch module needs torch: pip install 'superposed[models]'") from error
    return RetrievedModel.from_bytes(data).to_module(network)
