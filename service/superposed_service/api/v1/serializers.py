"""Serializers: API bodies from library values, and back, on the engine thread."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from superposed.analysis.capacity import capacity
from superposed.analysis.crosstalk import measure_interference
from superposed.config import EncoderConfig, validated
from superposed.contexts import DERIVATION_VERSION, Task, as_expression, check_key
from superposed.errors import ConfigError, ShapeError
from superposed.store.store import WeightStore
from superposed.tasks.schema import TaskSchema
from superposed_client.models import RecoveryInfo
from superposed_service.api.v1.schemas import TaskRegistration
from superposed_service.changes.quarantine import AUTHOR
from superposed_service.changes.replay import fingerprint
from superposed_service.changes.rollback import find_update
from superposed_service.changes.rows import unpack
from superposed_service.engine.canary_measure import row_of
from superposed_service.engine.writer import Writer
from superposed_service.errors import LimitReached, UnknownApiKey
from superposed_service.settings import Settings


def store_body(writer: Writer, settings: Settings, recovery: RecoveryInfo) -> dict[str, Any]:
    """Return the body of `GET /v1/store`."""
    store, journal = writer.store, writer.transaction_log.journal
    return {
        "preset": store.config.preset,
        "family": store.config.family,
        "network": {"inputs": store.config.network.inputs} | store.config.network.model_dump(mode="json"),
        "derivation_version": DERIVATION_VERSION,
        "limits": {
            "rows": settings.max_rows,
            "steps": settings.max_steps,
            "candidate_evaluations": settings.max_candidate_evaluations,
            "body_bytes": settings.max_body_bytes,
            "contexts": store.contexts.capacity,
            "gradient_norm": store.config.gradient_norm_cap,
        },
        "optimizer": store.config.optimizer.model_dump(mode="json"),
        "device": str(store.device),
        "dtype": store.config.dtype,
        "sequence": store.sequence,
        "tasks": len(store.tasks),
        "bytes": {
            "weights": store.weight_bytes,
            "optimizer": store.optimizer_bytes,
            "contexts_cached": store.contexts.cached_bytes,
            "kept_rows": store.replay_buffer.bytes,
            "statistics": store.tasks.statistics_bytes,
        },
        "rehearsal": store.config.rehearsal.model_dump(mode="json"),
        "fingerprint": fingerprint(store.device),
        "journal": {
            "horizon": journal.horizon,
            "sequence": journal.sequence,
            "records_since_snapshot": writer.records_since_snapshot,
            "failure": writer.transaction_log.failure,
            "lineage": store.lineage,
            "incarnation": journal.incarnation,
        },
        "recovery": recovery.model_dump(),
    }


def tenants_view(body: dict[str, Any], store: WeightStore, may_name: Callable[[str], bool]) -> dict[str, Any]:
    """Return the body of `GET /v1/store` for a tenant: its number of tasks, and their newest record."""
    own = [state for state in store.tasks.all() if may_name(state.schema.key)]
    newest = max((state.last_sequence for state in own), default=0)
    hidden = {"horizon": 0, "sequence": newest, "records_since_snapshot": 0}
    return body | {
        "tasks": len(own),
        "sequence": newest,
        "journal": body["journal"] | hidden,
        "recovery": body["recovery"] | {"snapshot": "", "replayed": 0, "damaged": []},
    }


def explain_quarantine(writer: Writer, source: str, may_name: Callable[[str], bool]) -> str:
    """Explain a quarantine: its reason, its time and its end; tasks of other tenants are only counted."""
    [entry] = [one for one in quarantine_list(writer) if one["source"] == source] or [{}]
    reason = entry.get("reason") or {}
    said = [f"since record {entry['since']}"] if entry else []
    if harmed := reason.get("tasks"):
        named = [key for key in harmed if may_name(key)]
        others = len(harmed) - len(named)
        named += [f"{others} of other API keys"] if others else []
        first, last = reason["sequences"]
        said.append(
            f"its updates within records {first} to {last} harmed {', '.join(named)}"
            f" by {float(reason['rise']):.2f} (limit {float(reason['limit']):.2f})"
        )
    elif reason.get("text"):
        said.append(f"an administrator gave the reason: {reason['text']}")
    said.append(f"scope admin releases it: DELETE /v1/quarantine/{source}, or client.release({source!r})")
    return "; ".join(said)


def task_schema(body: TaskRegistration, most: int, store: WeightStore) -> TaskSchema:
    """Return the schema that a registration asks for: what it leaves out is the store's.

    Raise `LimitReached` where it is a new task, and there are as many as there may be; `ConfigError` where there can be
    no such task; `ShapeError` where the store's network takes images, and the task's rows are narrower.
    """
    added = sum(key is not None and key not in store.tasks for key in (body.key, body.group))
    if added and len(store.tasks) + added > most:
        received = len(store.tasks) + added
        raise LimitReached("there are as many tasks as there may be", expected=most, received=received)
    there = store.tasks.get(body.key).schema if body.key in store.tasks else None
    values = body.model_dump()
    encoder = _encoder(body, store)
    values["encoder"] = encoder and encoder[0]
    values["inputs"] = body.inputs or (encoder[1].width if encoder else store.config.network.inputs)
    values["scaling"] = body.scaling or _default_scaling(body, there, store)
    if there is not None and body.features is None:
        values["features"] = there.features
    values["outputs"] = body.outputs or len(body.labels or ())
    if body.composition is not None:
        values["composition"] = str(as_expression(body.composition))
    schema = validated(TaskSchema, values)
    store.check_image(schema)
    if schema.abstain is not None and not (schema.keep_rows and store.replay_buffer.enabled):
        raise ConfigError("a task that abstains needs kept rows", expected="keep_rows, and a store that rehearses")
    return schema


def _encoder(body: TaskRegistration, store: WeightStore) -> tuple[str, EncoderConfig] | None:
    """Return the encoder of a task of texts or images, by name; None for other tasks."""
    kind, given = body.kind, body.encoder
    if kind not in {"texts", "images"}:
        if given is not None:
            raise ConfigError("tasks of texts and images name an encoder, and no others", received=kind)
        return None
    there = {name: one for name, one in store.config.encoders.items() if one.kind == kind}
    fitting = {name: one for name, one in there.items() if given in {None, name}}
    if len(fitting) == 1:
        [(name, encoder)] = fitting.items()
        if body.inputs not in {None, encoder.width}:
            raise ShapeError(f"tasks of encoder {name} have its width", expected=encoder.width, received=body.inputs)
        return name, encoder
    if there:
        raise ConfigError(f"which encoder of {kind}?", expected=f"encoder: {', '.join(there)}", received=given)
    wanted = f"one that was made with --encoder NAME=…, or --preset {kind}"
    raise ConfigError(f"this store has no encoder of {kind}", expected=wanted, received=f"kind {kind}")


def _default_scaling(body: TaskRegistration, there: TaskSchema | None, store: WeightStore) -> str:
    """Return the scaling of a registration that leaves it out: none for images, or with offset or scale."""
    if body.offset is not None or body.scale is not None or body.kind == "images":
        return "none"
    if there is not None and there.offset is None and there.scale is None:
        return there.scaling
    return "running" if store.config.network.kind == "mlp" or body.kind == "records" else "none"


def task_name(text: str) -> tuple[str, str | None]:
    """Return the key, and the group or None, of `key` or `group/key`; raise `ExpressionInvalid` for another text."""
    named = Task.named(text)
    return named.key, named.group


def capacity_body(store: WeightStore, wanted: Callable[[str], bool] | None = None) -> dict[str, Any]:
    """Return the body of `GET /v1/capacity`, of the wanted tasks; what is not known yet is left out."""
    return {name: value for name, value in asdict(capacity(store, wanted)).items() if value is not None}


def task_keys(text: str) -> list[str]:
    """Return the task keys of a list with commas, each once; raise `ExpressionInvalid` for another context."""
    return [check_key(key) for key in dict.fromkeys(text.split(","))]


def interference_body(writer: Writer, keys: Sequence[str]) -> dict[str, Any]:
    """Return the body of `GET /v1/interference`: crosstalk is measured at the rows that the guard keeps."""
    kept = {key: writer.transaction_log.canaries[key].values() for key in keys}
    rows = {key: [row_of(unpack(one.payload)) for one in canaries] for key, canaries in kept.items()}
    return asdict(measure_interference(writer.store, keys, rows))


def evaluations_body(store: WeightStore, key: str) -> list[dict[str, Any]]:
    """Return the body of `GET /v1/tasks/{key}/evaluations`."""
    store.tasks.get(key)
    return [asdict(one) for one in store.evaluations.of(key)]


def check_source(writer: Writer, source: str) -> None:
    """Raise `UnknownTask` or `UnknownApiKey` where a source is neither a task's key nor `key:<id>` of an API key."""
    if not source.startswith(AUTHOR):
        writer.store.tasks.get(source)
    elif writer.transaction_log.api_keys.get(source.removeprefix(AUTHOR)) is None:
        raise UnknownApiKey("no API key has this id", received=source)


def update_head(writer: Writer, sequence: int) -> tuple[dict[str, Any], int]:
    """Return the head of an update's record, and the number of records since; raises as `find_update`."""
    journal = writer.transaction_log.journal
    return dict(find_update(journal, sequence).head), journal.sequence - sequence


def quarantine_list(writer: Writer) -> list[dict[str, Any]]:
    """Return the body of `GET /v1/quarantine`."""
    found = []
    for source, since in writer.store.tasks.quarantined.items():
        records = writer.transaction_log.journal.summaries(since - 1, 1)
        reason = records[0].head["reason"] if records and records[0].sequence == since else None
        found.append({"source": source, "since": since, "reason": reason})
    return found
