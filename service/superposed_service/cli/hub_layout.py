"""A task's model as a Hugging Face Hub repository: its files, and a card with what was measured."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from superposed.analysis.onnx_export import to_onnx
from superposed.analysis.retrieval import retrieve_model
from superposed.errors import ConfigError
from superposed.store.store import WeightStore
from superposed.tasks.registry import TaskState

_KINDS = {"texts": "text-classification", "images": "image-classification"}


def write_hub_layout(store: WeightStore, key: str, folder: Path) -> None:
    """Write a task's model into an empty folder, or a new one.

    Raise `UnknownTask` where there is no such task, and `ConfigError` for files in the folder, or as `to_onnx`.
    """
    model, state = retrieve_model(store, key), store.tasks.get(key)
    onnx = to_onnx(model, config=store.config.network)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", expected="a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(onnx)
    (folder / "model.safetensors").write_bytes(model.to_bytes())
    (folder / "config.json").write_text(json.dumps(dict(model.metadata), indent=2))
    (folder / "README.md").write_text(_card(store, state, model.width))


def _card(store: WeightStore, state: TaskState, inputs: int) -> str:
    """Return the model card: Markdown, with metadata before it that the hub reads."""
    schema, loss = state.schema, state.schema.loss
    tabular = "tabular-classification" if loss == "cross_entropy" else "tabular-regression"
    task, measured = {"type": _KINDS.get(schema.kind, tabular)}, _measured(store, state)
    results = [
        {"task": task, "dataset": {"name": name, "type": "private"}, "metrics": [{"type": "accuracy", "value": value}]}
        for name, value in measured.items()
    ]
    index = [{"name": schema.key, "results": results}]
    head: dict[str, Any] = {"library_name": "superposed", "pipeline_tag": task["type"], "tags": ["onnx"]}
    head |= {"model-index": index} if results else {}
    lines = [f"{name}: {json.dumps(value)}" for name, value in head.items()]  # JSON is YAML
    labels = ", ".join(map(str, schema.labels)) if schema.labels else f"{schema.outputs} outputs"
    said = [f"- accuracy on {name}: {value:.4f}" for name, value in measured.items()] or ["- nothing was measured"]
    body = [f"# {schema.key}", schema.description, f"Answers {labels}. Learned {state.updates} updates."]
    if schema.encoder is not None:
        body.append(f"Rows are made of {schema.kind} by the encoder {store.config.encoders[schema.encoder].spec}.")
    body += ["\n".join(said), files(__package__).joinpath("hub_example.md").read_text().format(inputs=inputs)]
    return "\n".join(["---", *lines, "---", "", "\n\n".join(filter(None, body))])


def _measured(store: WeightStore, state: TaskState) -> dict[str, float]:
    """Return accuracies by what they were measured on."""
    found, known = {}, store.evaluations.of(state.schema.key)
    if known:
        found[f"{known[-1].rows} rows of an evaluation"] = known[-1].accuracy
    if (accuracy := state.prequential.accuracy(state.schema.loss)) is not None:
        found[f"{state.prequential.rows} rows, each before it was learned"] = accuracy
    return found
