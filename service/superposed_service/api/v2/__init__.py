"""The Open Inference Protocol, version 2, over the same engine."""

from superposed_service.api.v2.grpc_server import GrpcServer
from superposed_service.api.v2.routes import router

__all__ = ["GrpcServer", "router"]
