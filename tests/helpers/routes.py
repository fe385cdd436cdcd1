"""The routes of the service, and the scope that each needs."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.routing import Route

from superposed_service.api.v1.routes import routers
from superposed_service.api.v2.routes import router as v2_router

ROUTES = [route for router in (*routers, v2_router) for route in router.routes if isinstance(route, Route)]
# Expected scope of each method and template, written down here apart from the endpoints; None is open to all.
ACCESS_RULES: Mapping[tuple[str, str], str | None] = {
    ("GET", "/health/live"): None,
    ("GET", "/health/ready"): None,
    ("GET", "/metrics"): "monitor",
    ("GET", "/console"): None,
    ("GET", "/console/{path}"): None,
    ("GET", "/"): None,
    ("GET", "/docs"): None,
    ("GET", "/openapi.json"): "infer",
    ("GET", "/v1/store"): "infer",
    ("GET", "/v1/capacity"): "infer",
    ("GET", "/v1/interference"): "infer",
    ("GET", "/v1/events"): "infer",
    ("GET", "/v1/tasks"): "infer",
    ("GET", "/v1/tasks/{key}/evaluations"): "infer",
    ("POST", "/v1/infer"): "infer",
    ("POST", "/v1/evaluate"): "infer",
    ("POST", "/v1/locate"): "infer",
    ("POST", "/v1/tasks"): "update",
    ("PATCH", "/v1/tasks/{key}"): "update",
    ("GET", "/v1/tasks/{key}/data"): "update",
    ("DELETE", "/v1/tasks/{key}/data"): "update",
    ("POST", "/v1/update"): "update",
    ("POST", "/v1/stream"): "update",
    ("POST", "/v1/updates/{sequence}/relabel"): "update",
    ("POST", "/v1/consolidate"): "admin",
    ("GET", "/v1/model"): "admin",
    ("GET", "/v1/snapshots"): "admin",
    ("POST", "/v1/snapshots"): "admin",
    ("POST", "/v1/snapshots/{identifier}/restore"): "admin",
    ("POST", "/v1/rollback"): "admin",
    ("GET", "/v1/replication"): "replicate",
    ("POST", "/v1/replication/members"): "replicate",
    ("POST", "/v1/replication/promise"): "replicate",
    ("POST", "/v1/replication/lead"): "replicate",
    ("POST", "/v1/replication/promote"): "replicate",
    ("GET", "/v1/replication/records"): "replicate",
    ("GET", "/v1/replication/snapshot"): "replicate",
    ("GET", "/v1/quarantine"): "admin",
    ("POST", "/v1/quarantine"): "admin",
    ("DELETE", "/v1/quarantine/{source}"): "admin",
    ("GET", "/v1/keys"): "admin",
    ("POST", "/v1/keys"): "admin",
    ("DELETE", "/v1/keys/{identifier}"): "admin",
    ("POST", "/v1/keys/{identifier}/rotate"): "admin",
    ("GET", "/v2"): "infer",
    ("GET", "/v2/"): "infer",
    ("GET", "/v2/health/live"): None,
    ("GET", "/v2/health/ready"): None,
    ("GET", "/v2/models/stats"): "infer",
    ("GET", "/v2/models/{model}/versions/{version}/ready"): "infer",
    ("GET", "/v2/models/{model}/versions/{version}/config"): "infer",
    ("GET", "/v2/models/{model}/versions/{version}/stats"): "infer",
    ("GET", "/v2/models/{model}/ready"): "infer",
    ("GET", "/v2/models/{model}/config"): "infer",
    ("GET", "/v2/models/{model}/stats"): "infer",
    ("POST", "/v2/repository/index"): "infer",
    ("POST", "/v2/repository/models/{model}/load"): "infer",
    ("POST", "/v2/repository/models/{model}/unload"): "infer",
    ("POST", "/v2/models/{model}/versions/{version}/infer"): "infer",
    ("POST", "/v2/models/{model}/infer"): "infer",
    ("GET", "/v2/models/{model}/versions/{version}"): "infer",
    ("GET", "/v2/models/{model}"): "infer",
    ("GET", "/v1/tasks/{key}"): "infer",
    ("DELETE", "/v1/tasks/{key}"): "update",
}
