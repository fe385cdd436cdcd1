"""The Open Inference Protocol, version 2: another face of the same engine."""

from superposed_service.protocol_v2.grpc_face import GrpcFace
from superposed_service.protocol_v2.routes import hot_patterns, router

__all__ = ["GrpcFace", "hot_patterns", "router"]
