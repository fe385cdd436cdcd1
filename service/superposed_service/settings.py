"""Every setting of the service, documented where it stands; in the environment `SUPERPOSED_<NAME>`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings"]


class Settings(BaseSettings):
    """Settings of one server, from flags, environment, file and these defaults."""

    model_config = SettingsConfigDict(env_prefix="SUPERPOSED_", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the weights live.")
    inference_precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Of a GPU's products that answer: the weights' own, or bfloat16 (summed in float32).",
    )
    threads: int = Field(
        0,
        ge=0,
        description="Threads of one matrix product; 0: one core fewer than there are, for the event loop.",
    )

    grpc_address: str = Field(
        "", description="Where the Open Inference Protocol is spoken over gRPC (host:port); empty: nowhere."
    )

    max_body_bytes: int = Field(32 * 2**20, ge=1024, description="A larger request body is refused (413).")
    max_held_bytes: int = Field(
        512 * 2**20, ge=1024, description="Bodies of all requests at once; while there are more: 503."
    )
    max_header_bytes: int = Field(
        65_536, ge=1024, description="The first line and the headers of a request; a longer head is 431."
    )
    max_rows: int = Field(4096, ge=1, description="Rows of one request.")
    max_row_numbers: int = Field(65_536, ge=1, description="Numbers in one row, whatever its task's width.")
    max_steps: int = Field(100, ge=1, description="Optimizer steps of one update.")
    max_request_steps: int = Field(
        10_000,
        ge=1,
        description="Optimizer steps of one request in all: a model learned in, a consolidation.",
    )
    max_tries: int = Field(
        65_536, ge=1, description="Rows times candidate contexts that one search for a context may try."
    )
    max_page: int = Field(1000, ge=1, description="Tasks on one page of a listing.")
    max_tasks: int = Field(100_000, ge=1, description="Tasks that may be registered at once (409).")
    max_tasks_per_key: int = Field(
        10_000,
        ge=1,
        description="Tasks, compositions among them, that one API key may have registered at once (409).",
    )
    max_api_keys: int = Field(10_000, ge=1, description="API keys over HTTP, the revoked ones too (409).")

    max_connections: int = Field(
        1024, ge=1, description="Connections at once; to more of them only probes are answered (503)."
    )
    header_timeout_s: float = Field(10.0, gt=0, description="How long a request's head may take (408).")
    body_timeout_s: float = Field(10.0, gt=0, description="How long a body may take (408),")
    body_bytes_per_s: float = Field(65_536, gt=0, description="and one second more for so many bytes of it.")
    keep_alive_s: float = Field(
        75.0, gt=0, description="Seconds for which a connection without a request stays open."
    )
    answer_timeout_s: float = Field(
        10.0, gt=0, description="How long a client may stop reading its answer before it is cut off."
    )

    batch_rows: int = Field(1024, ge=1, description="Rows of one mixed batch of waiting requests.")
    batch_wait_ms: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="How long a batch waits to fill up, while nothing else waits; 0: not.",
    )
    queue_requests: int = Field(1024, ge=1, description="Requests that may wait; one more is refused (503).")
    queue_delay_ms: float = Field(
        500.0, gt=0, description="A request that would wait longer for its turn is refused at once (503)."
    )
    refusal_pause_ms: float = Field(
        500.0,
        ge=0,
        le=10_000,
        description="429 and 503 are answered so much later, which slows a flood,",
    )
    refusals_per_s: float = Field(
        50.0,
        gt=0,
        description="and so many a second to one API key; none is held back for more than twenty pauses.",
    )
    request_timeout_s: float = Field(
        60.0, gt=0, description="How long a request may wait for its answer; Request-Timeout asks for less."
    )

    quota_requests_per_s: float = Field(
        0.0,
        ge=0,
        description="Requests a second of an API key without a quota of its own; 0 for any number.",
    )
    quota_rows_per_s: float = Field(0.0, ge=0, description="The same for rows, of whatever kind of request.")
    quota_updates_per_s: float = Field(0.0, ge=0, description="The same for updates.")
    quota_burst_s: float = Field(
        0.25, gt=0, description="So many seconds' worth of a quota may be used at once, after a pause."
    )

    event_subscribers: int = Field(64, ge=0, description="Who may listen to events at once.")
    event_subscribers_per_key: int = Field(
        16, ge=1, description="How many of them one API key may be, where there are API keys."
    )
    event_queue: int = Field(
        1024, ge=1, description="Events that may wait for one of them; at one more it is dropped."
    )

    idempotency_s: float = Field(
        3600.0,
        gt=0,
        description="Seconds for which the response to a request with an Idempotency-Key is kept.",
    )
    idempotency_responses: int = Field(
        250_000,
        ge=1,
        description="Responses kept at once for one API key (without API keys: for one task); at the bound"
        " its next request with an Idempotency-Key is rejected (429).",
    )
    commit_records: int = Field(256, ge=1, description="Updates of one journal transaction at most.")
    snapshots_kept: int = Field(5, ge=2, description="Newest snapshots that are kept.")
    snapshot_records: int = Field(
        5000, ge=1, description="A snapshot is taken once so many records came after the newest one,"
    )
    snapshot_bytes: int = Field(256 * 2**20, ge=1, description="or so many bytes of rows.")
    history_records: int = Field(
        10_000,
        ge=0,
        description="How many records a rollback reaches back, at least.",
    )

    erased_snapshots_s: float = Field(
        24 * 3600.0,
        ge=0,
        description="Seconds until snapshots from before an erasure are removed, where an API key of scope"
        " update erased rows that were kept for rehearsal; until then they serve rollbacks.",
    )

    consolidation_slice: int = Field(
        32, ge=1, le=10_000, description="Steps of one slice of consolidation: other requests wait as long."
    )
    idle_consolidation_s: float = Field(
        0.0, ge=0, description="Consolidates once no change came for so long; 0 never does by itself."
    )

    canary_rows: int = Field(
        8, ge=0, le=1024, description="Rows kept of each task to see how it fares; 0 turns the detector off."
    )
    canary_tasks: int = Field(
        64, ge=2, description="Tasks whose canaries one measurement reads, in turn, shared by their API keys."
    )
    guard_interval: int = Field(
        64, ge=1, description="Optimizer steps between two measurements of the canaries."
    )
    guard_rise: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Harm to other tasks within a few steps, from 0 to 1, that never counts as too much.",
    )
    guard_action: Literal["alert", "quarantine"] = Field(
        "quarantine",
        description="What follows where the updates of a source harm other tasks: a warning in the log, or"
        " its quarantine too.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What is logged: from debug on, every change with its sequence number."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="For people, or one JSON object a line."
    )
    access_log: Literal["off", "quiet", "all"] = Field(
        "quiet",
        description="Requests that get a line: none; all but hot routes (rows) and probes; all.",
    )
    metrics_tasks: int = Field(
        100, ge=0, description="Tasks with a label of their own in /metrics; the rest share one."
    )
    traces: bool = Field(
        False, description="OpenTelemetry traces over OTLP (extra `otel`); where to: OTEL_… variables."
    )
