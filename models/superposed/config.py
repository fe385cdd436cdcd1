"""Configurations of a store: small frozen values that are validated when they are built."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from superposed.errors import ConfigError, SuperposedError, redacted

FamilyName = Literal["phase", "binary", "complex", "cyclic", "rotation"]
Activation = Literal["relu", "gelu", "silu", "tanh"]

MAX_WIDTH = 65_536
MAX_LAYERS = 64

C = TypeVar("C", bound="Config")


def validated(model: type[C], values: Any) -> C:
    """Build a configuration value and say plainly what is wrong with it.

    Raise `ConfigError` where a field is missing, unknown or out of range; what a field's own check raised.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, SuperposedError):
            raise cause from None
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        given, data = first["input"], place.startswith(("labels", "description"))
        shown = repr(given)[:200] if isinstance(given, int | float | str) and not data else redacted(given)
        raise ConfigError(f"{place}: {message}" if place else message, received=shown if place else None) from error


class Config(BaseModel):
    """Base of the frozen configuration values: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """Return a checked copy with some fields changed."""
        return validated(type(self), self.model_dump() | changes)


Expansion = Annotated[int, Field(ge=1, le=1024)]


class MLPConfig(Config):
    """A multi-layer perceptron: what a store holds by default.

    `normalisation` "layer" normalises every hidden layer's activations (no learned scale) before they
    are bound; inputs are not normalised, so that a task narrower than the store exports as its own width.
    `expansion` is the number of blocks of the output layer's context: see `superposed.contexts.Expanded`.
    `bias` "bound" is a column of the weights on a constant input, "shared" is added for all tasks alike.
    """

    kind: Literal["mlp"] = "mlp"
    inputs: int = Field(784, ge=1, le=MAX_WIDTH)
    hidden: tuple[int, ...] = Field((256, 256, 256), max_length=MAX_LAYERS)
    outputs: int = Field(10, ge=1, le=MAX_WIDTH)
    expansion: Expansion = 4
    activation: Activation = "relu"
    normalisation: Literal["layer", "none"] = "layer"
    bias: Literal["bound", "shared"] = "bound"


Side = Annotated[int, Field(ge=1, le=4096)]


class _ShapedNetwork(Config):
    """A network whose rows have a shape, and are flattened in its order; images: (channels, height, width)."""

    input_shape: tuple[Side, ...] = Field(min_length=1, max_length=8)
    outputs: int = Field(10, ge=1, le=MAX_WIDTH)
    expansion: Expansion = 1

    @property
    def inputs(self) -> int:
        """Features of a row."""
        return math.prod(self.input_shape)


class ConvNetConfig(_ShapedNetwork):
    """Convolutions of 3 x 3 with stride 2, then linear layers, ReLU and normalisation after each."""

    kind: Literal["convnet"] = "convnet"
    input_shape: tuple[Side, Side, Side] = (1, 28, 28)
    channels: tuple[Side, ...] = Field((16, 32), max_length=8)
    hidden: tuple[Side, ...] = Field((128,), max_length=MAX_LAYERS)


class ResNetConfig(_ShapedNetwork):
    """ResNet-18 for small images, with group normalisation; `width` channels in its first stage."""

    kind: Literal["resnet18"] = "resnet18"
    input_shape: tuple[Side, Side, Side] = (1, 28, 28)
    width: int = Field(64, ge=1, le=1024)


class ModuleConfig(_ShapedNetwork):
    """A network of the user's own: `factory` is `package:function`, which returns a torch module.

    Its linear and convolution layers are superposed; it takes rows of `input_shape`. `output_layer` names
    the linear layer that `expansion` widens, as `named_modules` does.
    """

    kind: Literal["module"] = "module"
    factory: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", max_length=256)
    output_layer: str | None = Field(None, max_length=256)

    @model_validator(mode="after")
    def _output_layer_is_named(self) -> Self:
        if self.expansion > 1 and self.output_layer is None:
            raise ValueError("an expansion needs the name of the output layer: output_layer")
        return self


def _kind(value: Any) -> str:
    return str(value.get("kind", "mlp") if isinstance(value, dict) else getattr(value, "kind", "mlp"))


NetworkConfig = Annotated[
    Annotated[MLPConfig, Tag("mlp")]
    | Annotated[ConvNetConfig, Tag("convnet")]
    | Annotated[ResNetConfig, Tag("resnet18")]
    | Annotated[ModuleConfig, Tag("module")],
    Discriminator(_kind),
]


class OptimizerConfig(Config):
    """The one optimizer of a store; its state is part of the store.

    `decay` and `epsilon` are RMSprop's: of its running mean of squared gradients, and what is added to the
    root of it. The defaults are torch's; TensorFlow has 0.9 and 1e-10. The other optimizers use neither.
    `steps` is the number of steps of an update that states none.
    """

    name: Literal["rmsprop", "adam", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, le=10)
    steps: int = Field(3, ge=1, le=1000)
    decay: float = Field(0.99, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)


class RehearsalConfig(Config):
    """Rehearsal: rows that a store keeps of its tasks, to learn them again while it learns other tasks.

    A row is kept as it came, in 8 bits a number, between the smallest and the largest of the task's feature.

    Args:
        rows_per_task: How many rows are kept of each task; 0 keeps none, and rehearses nothing.
        ratio: How many kept rows of other tasks go with each new row; below 1, the share of updates that one goes with.
        own_ratio: As `ratio`, of earlier rows of the update's own tasks.
        least_rows: Fewest rows of each of the two sorts beside an update, unless its ratio is 0.
        max_bytes: What all kept rows may take up, in memory and in each snapshot; the ranges of features
            take 16 bytes a feature and task beside them.
        logit_share: How much of the loss of other tasks' rows is the distance of their logits from those of
            when the row was last learned by an update of its own task; 0 keeps no logits.
    """

    rows_per_task: int = Field(600, ge=0, le=10_000_000)
    ratio: float = Field(1.0, ge=0, le=16)
    own_ratio: float = Field(0.25, ge=0, le=16)
    least_rows: int = Field(32, ge=0, le=4096)
    max_bytes: int = Field(256 * 2**20, ge=0)
    logit_share: float = Field(0.5, ge=0, le=1)


OriginalKind = Literal["texts", "images"]
ENCODER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
EncoderName = Annotated[str, Field(pattern=ENCODER_NAME)]


class EncoderConfig(Config):
    """An encoder of a store: from texts or images to rows.

    A row has `width` numbers, at most the store's inputs. Encoders of one `fingerprint` encode alike; another one
    is not used. See `superposed.encoders` for `spec`.
    """

    spec: str = Field(min_length=1, max_length=1024)
    kind: OriginalKind
    width: int = Field(ge=1, le=MAX_WIDTH)
    fingerprint: str


PresetName = Literal["general", "users", "texts", "images", "paper"]


class StoreConfig(Config):
    """Everything that a new store is built from, besides its secret.

    Args:
        preset: The preset whose settings those not given were taken from; None in stores of earlier releases.
        dtype: Of weights and contexts.
        gradient_norm_cap: An update whose gradient is longer than this is refused.
        context_table_bytes: What materialised contexts may take up.
        encoders: Encoders of texts and images, by name.
    """

    preset: PresetName | None = "general"
    network: NetworkConfig = MLPConfig()
    family: FamilyName = "phase"
    optimizer: OptimizerConfig = OptimizerConfig()
    dtype: Literal["float32", "float64"] = "float32"
    gradient_norm_cap: float = Field(1e4, gt=0)
    context_table_bytes: int = Field(256 * 2**20, ge=1)
    rehearsal: RehearsalConfig = RehearsalConfig()
    encoders: dict[EncoderName, EncoderConfig] = {}

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        network = self.network
        for name, encoder in self.encoders.items():
            if encoder.width > network.inputs:
                made = f"encoder {name} makes rows of {encoder.width} numbers"
                raise ValueError(f"{made}, more than the network's {network.inputs} inputs")
        if self.family == "rotation" and "expansion" not in network.model_fields_set:
            object.__setattr__(self, "network", network.replace(expansion=1))  # they have no expansion
        return self

    @classmethod
    def of_preset(cls, preset: str, values: Mapping[str, Any] | None = None) -> Self:
        """Return the settings of a preset, some of them changed.

        `values` are settings that differ, nested as the configuration is; another kind of network as a whole. Raise
        `ConfigError` where there is no such preset, or a setting is unknown or out of range.
        """
        if preset not in PRESETS:
            raise ConfigError("no such preset", expected=f"one of {', '.join(PRESETS)}", received=preset)
        settings = {"preset": preset, **PRESETS[preset]}
        for name, given in (values or {}).items():
            before = settings.get(name, {})
            other = name == "network" and given.get("kind", "mlp") != "mlp"
            settings[name] = {**before, **given} if isinstance(given, Mapping) and not other else given
        return validated(cls, settings)

    @classmethod
    def saved(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration of a saved store: what its release did not know is as it was then."""
        nested = {name: {**then, **values.get(name, {})} for name, then in _FIRST_NESTED.items()}
        return validated(cls, {"preset": None, **values, **nested})


# Settings that each preset fills in; the others have the defaults, which are those of `general`.
PRESETS: dict[str, dict[str, Any]] = {
    "general": {},
    "users": {"network": {"expansion": 50}},
    "texts": {"network": {"inputs": 384, "hidden": (256,), "outputs": 64, "activation": "silu", "expansion": 100}},
    "images": {
        "network": {"hidden": (300, 300), "activation": "silu", "expansion": 1},
        "optimizer": {"learning_rate": 1.5e-4, "steps": 1},
        "rehearsal": {"least_rows": 0},
    },
    "paper": {
        "family": "binary",
        "network": {"normalisation": "none", "bias": "shared", "expansion": 1},
        "optimizer": {"name": "rmsprop", "learning_rate": 1e-4, "steps": 1},
        "rehearsal": {"rows_per_task": 0},
    },
}

# The encoders of a new store with a preset, by name, where none are given.
PRESET_ENCODERS: dict[str, dict[str, str]] = {
    "texts": {"texts": "sentence-transformers:all-MiniLM-L6-v2"},
    "images": {"images": "pixels:1x28x28"},
}

# Nested settings that came later, as every store of the first release behaved; it had no presets.
_FIRST_NESTED: dict[str, dict[str, Any]] = {
    "network": {"expansion": 1},
    "optimizer": {"steps": 1},
    "rehearsal": {"own_ratio": 0.0, "least_rows": 0},
}
