"""Taking a task's model out of a store as an ordinary network."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from superposed.config import MLPConfig, NetworkConfig, StoreConfig, validated
from superposed.contexts import Binding
from superposed.encoders.records import FeatureTable
from superposed.errors import ConfigError, redacted
from superposed.nn import LAYER_NORM_EPSILON, MLP, activate, plain_forward, plain_network
from superposed.nn.layers import SuperposedModule
from superposed.store import tensorfile
from superposed.store.store import WeightStore
from superposed.tasks.scaling import Scaling
from superposed.tasks.schema import TaskSchema

# The names of a network's state stand behind it in a file, apart from those of the task's own tensors.
_STATE = "network."


@dataclass(frozen=True)
class RetrievedModel:
    """A task's model as an ordinary network with no trace of the store.

    Args:
        tensors: `input.offset` and `input.scale` (inputs,), float64, as an offset may be far larger than what is left
            of it; scaled rows are cut off at the metadata's `input_clip`, where it has one. Of records of numbers
            `input.missing` (features, inputs), float64, is what a missing one (NaN) adds. Of an mlp `layers.{i}.weight`
            (D_out, D_in) and `layers.{i}.bias` (D_out,), the context folded in, cut to the task's own inputs and
            outputs. Of another network `network.{name}`, its state, the context folded into every linear and
            convolution layer, and where targets are scaled `output.offset` and `output.scale` (outputs,).
        metadata: labels, loss, sequence; of an mlp activation and normalisation (kind, epsilon, where), of
            another the store's network configuration, and the task's inputs and outputs.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Answer rows (B, inputs) with (B, outputs), from an mlp's tensors and metadata alone.

        Raise `ConfigError` for another network's: it answers once it is in a module, see `load_into`.
        """
        if "layers.0.weight" not in self.tensors:
            expected, received = "load_into(module), then the module's answer", redacted(self.metadata.get("network"))
            raise ConfigError("the network is no mlp", expected=expected, received=received)
        signal = self.scaled(inputs).to(self.tensors["layers.0.weight"].dtype)
        count = sum(name.endswith(".weight") for name in self.tensors)
        layers = [(self.tensors[f"layers.{i}.weight"], self.tensors[f"layers.{i}.bias"]) for i in range(count)]
        activation, normalisation = self.metadata["activation"], self.metadata["normalisation"]
        kind, epsilon = normalisation["kind"], normalisation.get("epsilon", LAYER_NORM_EPSILON)
        return plain_forward(signal, layers, lambda rows: activate(rows, activation, kind, epsilon))

    @property
    def width(self) -> int:
        """Numbers of a row: the task's inputs; of records of numbers one a feature, NaN where it is missing."""
        return len(self.tensors.get("input.missing", self.tensors["input.offset"]))

    def scaled(self, inputs: Tensor) -> Tensor:
        """Return rows (B, width), or rows of records as they are encoded, as the network takes them, in float64."""
        offset, marks, extra = self.tensors["input.offset"], self.tensors.get("input.missing"), None
        rows = inputs.double()
        if marks is not None and rows.shape[1] == len(marks):
            missing = rows.isnan()
            rows = F.pad(rows.where(~missing, offset[: len(marks)]), (0, len(offset) - len(marks)))
            extra = missing.double() @ marks
        scaled, clip = (rows - offset) / self.tensors["input.scale"], self.metadata.get("input_clip")
        scaled = scaled if clip is None else scaled.clamp(-clip, clip)
        return scaled if extra is None else scaled + extra

    def to_module(self, network: nn.Module | None = None) -> nn.Module:
        """Return an ordinary module that takes rows (B, inputs) as they are, and answers as the server does.

        Its answers are probabilities (B, outputs) in the order of the metadata's labels, or values.

        Args:
            network: A module of the store's architecture, changed in place, where that is the user's own: the
                store's other networks are made here.

        Raise `ConfigError` as `load_into`, and where the network is missing.
        """
        if "layers.0.weight" in self.tensors:
            return _Answers(self, None)
        known = self.metadata.get("network", {})
        if not network and known.get("kind") == "module":
            raise ConfigError("the network is the user's own", expected="a module of its architecture", received="none")
        made = network or plain_network(validated(StoreConfig, {"network": known}).network)
        return _Answers(self, self.load_into(made))

    def load_into(self, module: nn.Module) -> nn.Module:
        """Give an ordinary module of the store's architecture these weights.

        What it then takes is (B, *input_shape) of (rows - `input.offset`) / `input.scale` in its own dtype,
        padded by zeros where the task is narrower; of its answers the task's are the first.

        Args:
            module: As the store's factory makes it; changed in place, on its own device and in its own
                dtype. Layers without a bias are given one, and it is in evaluation mode afterwards.

        Raise `ConfigError` for another architecture, or an mlp's tensors, which need no module; nothing is changed.
        """
        state = {name.removeprefix(_STATE): tensor for name, tensor in self.tensors.items() if name.startswith(_STATE)}
        places = dict(module.named_parameters()) | dict(module.named_buffers())
        new = _missing_biases(module, set(state) - set(places))
        here, there = (
            {name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (places | new, state)
        )
        if here != there or not state:
            expected = self.metadata.get("network", "no module: an mlp's tensors answer by themselves")
            differ = sorted(name for name in here | there if here.get(name) != there.get(name))
            raise ConfigError("the module is of another architecture", expected=expected, received=differ[:20])
        for name, bias in new.items():
            module.get_submodule(name.rpartition(".")[0]).bias = bias
        with torch.no_grad():
            for name, place in (places | new).items():
                place.copy_(state[name])
        return module.eval()

    def to_bytes(self) -> bytes:
        """Return a safetensors file; the same store, secret and sequence give the same tensors."""
        return tensorfile.dump(self.tensors, self.metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> "RetrievedModel":
        """Return the inverse of `to_bytes`; raise `ConfigError` for another kind of file."""
        return cls(*tensorfile.parse(data))


class _Answers(nn.Module):
    """A model with its scaling before it, and probabilities or the user's units after it."""

    def __init__(self, model: RetrievedModel, network: nn.Module | None) -> None:
        super().__init__()
        self._metadata, self.network = model.metadata, network
        for name, tensor in model.tensors.items():
            if not name.startswith(_STATE):
                self.register_buffer(name.replace(".", "__"), tensor)

    def forward(self, rows: Tensor) -> Tensor:
        tensors = {name.replace("__", "."): tensor for name, tensor in self.named_buffers(recurse=False)}
        model = RetrievedModel(tensors, self._metadata)
        if self.network is None:
            answers = model(rows)
        else:
            shape, scaled = self._metadata["network"]["input_shape"], model.scaled(rows)
            padded = F.pad(scaled, (0, math.prod(shape) - scaled.shape[1])).reshape(-1, *shape)
            answers = self.network(padded.float())[:, : self._metadata["outputs"]]
            if (scale := tensors.get("output.scale")) is not None:
                answers = (answers.double() * scale + tensors["output.offset"]).float()
        temperature = self._metadata.get("temperature")  # of probabilities
        return answers if temperature is None else (answers / temperature).softmax(1)


def retrieve_model(store: WeightStore, context: object) -> RetrievedModel:
    """Take a context's model out of the store: the same logits, to rounding, as the store serves.

    For complex contexts the network has both real and imaginary parts as ordinary units. Raise `ContextError` for a
    context that cannot be addressed.
    """
    resolved = store.resolve(context)
    schema = resolved.task.schema
    bindings = store.contexts.bind_all(resolved.context)
    with torch.no_grad():
        if isinstance(store.network, SuperposedModule):
            state = store.network.retrieve(bindings)
            tensors = {f"{_STATE}{name}": tensor for name, tensor in state.items()}
        else:
            tensors = _layers(store.network, bindings, schema)
    scaling = resolved.scaling or Scaling(np.zeros(0), np.ones(0), None)
    tensors["input.offset"] = _padded(scaling.offset, 0.0, schema.inputs)
    tensors["input.scale"] = _padded(scaling.scale, 1.0, schema.inputs)
    if (units := resolved.target_scaling) is not None:
        _fold_units(tensors, units, schema.outputs)
    table = (resolved.scaler or resolved.task).features
    if schema.kind == "records" and set(table.features.values()) == {"number"}:
        tensors["input.missing"] = _missing(table, schema.inputs)
    metadata = {
        **_architecture(store.config.network, schema),
        **({"features": list(table.features.items())} if schema.kind == "records" else {}),
        **({} if scaling.clip is None else {"input_clip": scaling.clip}),
        **({"temperature": resolved.task.calibration.temperature} if schema.loss == "cross_entropy" else {}),
        "labels": list(schema.labels) if schema.labels else None,
        "loss": schema.loss,
        "sequence": store.sequence,
    }
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return RetrievedModel(copies, metadata)


def _missing(table: FeatureTable, width: int) -> Tensor:
    """Return what each missing number adds to a scaled row, (features, width)."""
    names = list(table.features)
    records = [{name: 0.0 for name in names if name != left} for left in names]
    return torch.from_numpy(np.nan_to_num(table.encode(records, width, ignore_extra=True)))


def _missing_biases(module: nn.Module, names: Collection[str]) -> dict[str, nn.Parameter]:
    """Return biases, by these names, for layers that have none."""
    layers = {f"{name}.bias": layer for name, layer in module.named_modules()}
    return {
        name: nn.Parameter(layer.weight.new_empty(len(layer.weight)))
        for name in names
        if isinstance(layer := layers.get(name), nn.Linear | nn.Conv2d) and layer.bias is None
    }


def _layers(network: MLP, bindings: Mapping[str, Binding], schema: TaskSchema) -> dict[str, Tensor]:
    """Return an mlp's layers with a context folded in, cut to a task's own width."""
    tensors: dict[str, Tensor] = {}
    layers = network.superposed_layers()
    for place, (name, layer) in enumerate(layers.items()):
        weight, bias = layer.retrieve(bindings[name].contexts)
        if place == 0:
            weight = weight[:, : schema.inputs]  # padded inputs are 0, and so are imaginary ones
        if place == len(layers) - 1:
            weight, bias = weight[: schema.outputs], bias[: schema.outputs]
        tensors[f"layers.{place}.weight"], tensors[f"layers.{place}.bias"] = weight, bias
    return tensors


def _architecture(network: NetworkConfig, schema: TaskSchema) -> dict[str, Any]:
    """Return what the tensors do not say about the network that they belong to."""
    if not isinstance(network, MLPConfig):
        sizes = {"inputs": schema.inputs, "outputs": schema.outputs}
        # A file that names code would have its reader run that code.
        return {"network": network.model_dump(mode="json", exclude={"factory"}), **sizes}
    where = "after the activation of every hidden layer"
    normalisation = {"kind": network.normalisation, "epsilon": LAYER_NORM_EPSILON, "where": where}
    return {"activation": network.activation, "normalisation": normalisation}


def _padded(values: NDArray[np.float64], default: float, count: int) -> Tensor:
    """Return the first `count` values, (count,) float64, with a default for those that are not there."""
    values = values[:count]
    return torch.from_numpy(np.pad(values, (0, count - len(values)), constant_values=default))


def _fold_units(tensors: dict[str, Tensor], units: Scaling, outputs: int) -> None:
    """Have a network answer in the user's units: an mlp by its last layer, another by two more tensors."""
    offset, scale = _padded(units.offset, 0.0, outputs), _padded(units.scale, 1.0, outputs)
    last = max((name.split(".")[1] for name in tensors if name.startswith("layers.")), key=int, default=None)
    if last is None:
        tensors["output.offset"], tensors["output.scale"] = offset, scale
        return
    weight, bias = tensors[f"layers.{last}.weight"], tensors[f"layers.{last}.bias"]
    tensors[f"layers.{last}.weight"] = (weight.double().cpu() * scale[:, None]).to(weight.dtype)
    tensors[f"layers.{last}.bias"] = (bias.double().cpu() * scale + offset).to(weight.dtype)
