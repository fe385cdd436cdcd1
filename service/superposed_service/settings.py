"""Every setting of the service, documented where it stands; in the environment `SUPERPOSED_<NAME>`."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from superposed.config import PresetName


class Settings(BaseSettings, env_prefix="SUPERPOSED_", extra="ignore", frozen=True, use_attribute_docstrings=True):
    """Settings of one server, from flags, environment, file and these defaults."""

    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65_535)
    """Port to listen on; 0 picks a free one."""
    preset: PresetName = "general"
    """Preset of a store that `serve` makes in an empty directory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the weights; `auto` takes a GPU where there is one."""
    inference_precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products for inference on a GPU; bfloat16 sums in float32."""
    threads: int = Field(0, ge=0)
    """Threads of one matrix product; 0 uses all cores but one, which is left to the event loop."""

    grpc_address: str = ""
    """Address (host:port) of the Open Inference Protocol over gRPC; empty turns gRPC off."""

    follow: str = ""
    """URL of the leader to follow, which takes all changes; empty: this server leads."""
    follow_api_key: SecretStr = SecretStr("")
    """API key of the leader, scope `replicate`."""
    first_api_key: SecretStr = SecretStr("")
    """API key of scope admin (`sp-ID-SECRET`) that a store without keys gets at its start."""
    follow_mode: Literal["replay", "snapshots"] = "replay"
    """Followers on another processor, equal to rounding: replay records, or load the leader's snapshots."""
    members: str = ""
    """URLs of all servers of the store, this one too, with commas between; the same on each. Empty: no promotion."""
    sync_followers: int = Field(0, ge=0)
    """Followers that must have a change on their disks before it is answered; the same on each server."""
    follow_timeout_s: float = Field(30.0, gt=0)
    """Seconds without the leader after which a follower is not ready and rejects API keys (503)."""

    max_body_bytes: int = Field(32 * 2**20, ge=1024)
    """Largest request body in bytes; a larger one is rejected (413)."""
    max_inflight_bytes: int = Field(512 * 2**20, ge=1024)
    """Largest total of all request bodies in memory; beyond it requests are rejected (503)."""
    max_header_bytes: int = Field(65_536, ge=1024)
    """Largest request line and headers in bytes; a longer head is rejected (431)."""
    max_rows: int = Field(4096, ge=1)
    """Largest number of rows in one request."""
    max_row_values: int = Field(65_536, ge=1)
    """Largest number of values in one row, for every task."""
    max_steps: int = Field(100, ge=1)
    """Largest number of optimizer steps in one update."""
    max_request_steps: int = Field(10_000, ge=1)
    """Largest number of optimizer steps in one consolidation."""
    max_candidate_evaluations: int = Field(65_536, ge=1)
    """Largest number of rows times candidate contexts in one task inference."""
    max_page: int = Field(1000, ge=1)
    """Largest number of tasks on one page of a listing."""
    max_tasks: int = Field(100_000, ge=1)
    """Largest number of registered tasks; one more is rejected (409)."""
    max_tasks_per_key: int = Field(10_000, ge=1)
    """Largest number of tasks and compositions that one API key may have registered (409)."""
    max_api_keys: int = Field(10_000, ge=1)
    """Largest number of API keys, revoked ones included (409)."""

    max_connections: int = Field(1024, ge=1)
    """Largest number of open connections; beyond it only health probes are answered (503)."""
    header_timeout_s: float = Field(10.0, gt=0)
    """Seconds within which the request line and headers must arrive (408)."""
    body_timeout_s: float = Field(10.0, gt=0)
    """Seconds within which a body must arrive (408); `body_bytes_per_s` extends them."""
    body_bytes_per_s: float = Field(65_536, gt=0)
    """Minimum upload rate in bytes per second; the body timeout grows by 1 s for each this many bytes."""
    keep_alive_s: float = Field(75.0, gt=0)
    """Seconds for which a connection without a request stays open."""
    response_timeout_s: float = Field(10.0, gt=0)
    """Seconds after which a client that does not read its response is disconnected."""

    embedding_cache_bytes: int = Field(64 * 2**20, ge=0)
    """Largest memory of kept embeddings in bytes; 0 keeps none."""
    keep_originals: bool = False
    """True to journal texts and images beside their encodings; erased with the task's rows."""

    batch_rows: int = Field(1024, ge=1)
    """Largest number of rows in one mixed batch."""
    batch_wait_ms: float = Field(0.0, ge=0, le=1000)
    """Milliseconds that an idle engine waits for a batch to fill; 0 does not wait."""
    queue_requests: int = Field(1024, ge=1)
    """Largest number of waiting requests; one more is rejected (503)."""
    queue_delay_ms: float = Field(500.0, gt=0)
    """Longest estimated wait in milliseconds; a longer one is rejected on arrival (503)."""
    rejection_delay_ms: float = Field(500.0, ge=0, le=10_000)
    """Milliseconds by which responses 429 and 503 are delayed, which slows down floods."""
    rejections_per_s: float = Field(50.0, gt=0)
    """Rejections per second and API key before further ones are delayed more, at most 20 delays."""
    request_timeout_s: float = Field(60.0, gt=0)
    """Seconds that a request may wait for its response; a `Request-Timeout` header may ask for less."""

    quota_requests_per_s: float = Field(0.0, ge=0)
    """Requests per second of an API key without a quota of its own; 0 is no limit."""
    quota_rows_per_s: float = Field(0.0, ge=0)
    """Rows per second of an API key without a quota of its own, for all requests; 0 is no limit."""
    quota_updates_per_s: float = Field(0.0, ge=0)
    """Updates per second of an API key without a quota of its own; 0 is no limit."""
    quota_burst_s: float = Field(0.25, gt=0)
    """Seconds of a quota that may be used at once after a pause."""

    event_subscribers: int = Field(64, ge=0)
    """Largest number of subscribers to events."""
    event_subscribers_per_key: int = Field(16, ge=1)
    """Largest number of event subscribers with the same API key."""
    event_queue: int = Field(1024, ge=1)
    """Largest number of events that wait for one subscriber; at one more the subscriber is dropped."""

    idempotency_retention_s: float = Field(3600.0, gt=0)
    """Seconds for which the response to a request with an Idempotency-Key is kept."""
    idempotency_responses: int = Field(250_000, ge=1)
    """Responses kept for one API key (or task, without API keys); beyond it keys are refused (429)."""
    commit_records: int = Field(256, ge=1)
    """Largest number of updates in one journal transaction."""
    snapshots_kept: int = Field(5, ge=2)
    """Number of snapshots that are kept, the newest ones."""
    snapshot_records: int = Field(5000, ge=1)
    """Records after the newest snapshot at which the next one is taken."""
    snapshot_bytes: int = Field(256 * 2**20, ge=1)
    """Bytes of rows after the newest snapshot at which the next one is taken."""
    history_records: int = Field(10_000, ge=0)
    """Records that a rollback can reach back, at least."""

    erased_snapshot_retention_s: float = Field(24 * 3600.0, ge=0)
    """Seconds for which snapshots from before an erasure stay, where scope update erased rows."""

    consolidation_slice: int = Field(32, ge=1, le=10_000)
    """Optimizer steps of one slice of consolidation; other requests wait for one slice."""

    canary_rows: int = Field(8, ge=0, le=1024)
    """Rows kept of each task to detect harm to it; 0 turns the poison detector off."""
    canary_tasks: int = Field(64, ge=2)
    """Tasks measured together by the poison detector, in turn and shared between API keys."""
    poison_interval_steps: int = Field(64, ge=1)
    """Optimizer steps between two measurements of the poison detector."""
    poison_threshold: float = Field(0.3, ge=0, le=1)
    """Harm to other tasks within a few steps, from 0 to 1, that is always tolerated."""
    poison_action: Literal["alert", "quarantine"] = "quarantine"
    """Action on harmful updates: a warning in the log, or quarantine of their source."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged; `debug` logs every change with its sequence number."""
    log_format: Literal["console", "json"] = "console"
    """Form of log lines: text for a console, or one JSON object a line."""
    access_log: Literal["off", "quiet", "all"] = "quiet"
    """Requests that are logged: none, all but hot routes and probes, or all."""
    metrics_tasks: int = Field(100, ge=0)
    """Number of tasks with a label of their own in /metrics; further tasks share one label."""
    traces: bool = False
    """Send OpenTelemetry traces over OTLP (extra `otel`); OTEL_… variables configure the target."""
