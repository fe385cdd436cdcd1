"""Names of runs for people, from the names of their result files."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["linked", "run_name"]

# Beginnings of names, the longest first, and what they say.
_METHODS = {
    "phase-rehearsed": "superposed store, rehearsed",
    "standard-rehearsed": "one network, rehearsed",
    "batch-ensemble": "BatchEnsemble",
    "synaptic-intelligence": "one network, synaptic intelligence",
    "separate": "a network a task",
    "standard": "one network",
    "ewc": "one network, EWC",
    **{family: f"superposed store, {family} contexts" for family in ("binary", "phase", "complex", "rotation")},
    "permuted-": "own labels: ",
    "turned-": "own angle: ",
    "mnist-": "MNIST, ",
    "cifar10-": "CIFAR-10, ",
}
_DETAILS = {
    r"^-?units(\d+)": r"\1 units",
    r"^tasks(\d+)$": r"\1 tasks",
    r"-seed(\d)": r", seed \1",
    r"^-(\d+)": r", \1 units",
    r"-silu": ", SiLU",
    r"-layernorm-centred-boundbias": ", a store's layers",
    r"-layernorm-centred": ", layer norm, centred inputs",
    r"-centred": ", centred inputs",
    r"-layers(\d)": r", \1 layers",
    r"-rows(\d+)": r", \1 kept rows",
    r"-logits0.5-own0.25": ", logits",
    r"-steps(\d+)": r", \1 steps",
    r"-budget\d+-tasks\d+": ", bytes of the kept rows",
    r"-tasks(\d+)": r", \1 tasks",
    r"-(?:rmsprop-0.0001-)?decay0.9-epsilon1e-10": ", TensorFlow's RMSprop",
    r"-(?:adam|rmsprop)-([0-9.]+e-[0-9]+|[0-9.]+)": r", rate \1",
    r"-strength\d+": "",
}
_WHOLE = {
    # personalisation
    "own-outputs": "shared layers, private output layers",
    "shared": "one context for all",
    "random": "a context a user",
    "mixture": "mixture of group and user",
    "separate": "a network a user",
    "separate-8x": "a network a user, 8 times the weights",
    **{f"group-{count}": f"group, last {count} layers the user's" for count in (2, 3)},
    "group-1": "group, output layer the user's",
    "group-4": "group, all layers the user's",
    # incremental labels
    "none": "one context",
    "superposed": "a context a block",
    "rehearsed": "a context a block, rehearsed",
    "multi-head": "two outputs a block, no contexts",
}
_TURNS = {
    "cyclic": "powers, cyclic family",
    "power": "powers of one context",
    "mixture": "mixtures of three segments",
    "segments": "a context a tenth of a turn",
    "none": "one context",
}
_VARIANTS = {
    "as-a-store": "as a store",
    "silu": "SiLU for ReLU",
    "gelu": "GELU for ReLU",
    "tanh": "tanh for ReLU",
    "one-layer": "one layer, as many weights",
    "two-layers": "two layers, as many weights",
    "five-layers": "five layers, as many weights",
    "no-normalisation": "no layer normalisation",
    "not-centred": "inputs not centred",
    "logits-half": "half the loss from kept logits",
    "rate-falls-over-tasks": "rate falls over tasks",
    "rate-falls-within-a-task": "rate falls within a task",
    "rate-1e-3": "rate 1e-3",
    "rate-1e-4": "rate 1e-4",
    "own-bias": "a bias of each task's own",
    "own-bias-and-scale": "bias and scale of each task's own",
    "shared-bias": "a bias that all share",
    "importance-1": "EWC beside rehearsal, strength 1",
    "importance-100": "EWC beside rehearsal, strength 100",
    "unsure-rows-only": "only rows that are not sure yet",
    "hadamard": "orthogonal contexts",
    "kept-500": "500 kept rows a task",
    "nothing-kept": "nothing kept",
}


def run_name(stem: str, experiment: str = "") -> str:
    """Return what a run was, for a table or a picture; `stem` is its file's name, perhaps without a seed."""
    if experiment == "variants":
        return _VARIANTS[stem]
    if experiment == "rotating-mnist":
        kind, _, gaps = stem.partition("-")
        return _TURNS[kind] + (", angles left out" if gaps else "")
    beginning = next((one for one in sorted(_METHODS, key=len, reverse=True) if stem.startswith(one)), "")
    rest = stem[len(beginning) :]
    if beginning.endswith("-"):
        kind, _, steps = rest.partition("-steps")
        return _METHODS[beginning] + _WHOLE[kind] + (f", {int(steps):,} steps" if steps else "")
    for pattern, shown in _DETAILS.items():
        rest = re.sub(pattern, shown, rest)
    return re.sub(
        r"(?<![.\d-])\d{4,}(?!\d*e)", lambda number: f"{int(number[0]):,}", _METHODS.get(beginning, "") + rest
    )


def linked(stem: str, file: Path | str, experiment: str = "") -> str:
    """Return a run's name as a link to its result, which stands beside the table."""
    return f"[{run_name(stem, experiment)}]({Path(file).name})"
