"""The protocol's gRPC messages, built from the table of their fields in `messages.txt`: nothing is generated.

The names and numbers are those of the public `inference.GRPCInferenceService`. Fields that are not listed are
skipped when a message is read, as protobuf does with what it does not know; how messages are nested is of no
matter on the wire.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2

SERVICE = "inference.GRPCInferenceService"
# The call whose requests and answers are streams.
STREAMED = "ModelStreamInfer"

_LINES = files(__package__).joinpath("messages.txt").read_text().splitlines()
_FIELDS = {name: fields for name, _, fields in (line.partition(":") for line in _LINES if not line.startswith("#"))}


def _described() -> Any:
    """Return the service and the table's messages, in a pool of their own: others here may have these names."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="superposed/inference.proto", package="inference", syntax="proto3")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for line in filter(None, fields.strip().split(", ")):
            number, kind, name = line.split()
            repeated, plain = kind.endswith("*"), kind.removesuffix("*")
            one = described.field.add(name=name, number=int(number))
            one.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if plain in _FIELDS:
                one.type, one.type_name = field.TYPE_MESSAGE, f".inference.{plain}"
            else:
                one.type = field.Type.Value(f"TYPE_{plain.upper()}")
    service = file.service.add(name=SERVICE.partition(".")[2])
    for name in sorted(one.removesuffix("Request") for one in _FIELDS if one.endswith("Request")):
        service.method.add(name=name, input_type=f".inference.{name}Request", output_type=f".inference.{name}Response")
    streamed = service.method.add(name=STREAMED, client_streaming=True, server_streaming=True)
    streamed.input_type, streamed.output_type = ".inference.ModelInferRequest", f".inference.{STREAMED}Response"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    health = descriptor_pb2.FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(health)
    pool.Add(health)
    return pool


POOL = _described()
MESSAGES: Mapping[str, Any] = {
    name: message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}")) for name in _FIELDS
}
