"""The protocol's gRPC messages, built from a table of their fields: nothing is generated, nothing checked in.

The names and numbers are those of the public `inference.GRPCInferenceService`. Fields that are not listed are
skipped when a message is read, as protobuf does with what it does not know; how messages are nested is of no
matter on the wire.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2

SERVICE = "inference.GRPCInferenceService"
# The call whose requests and answers are streams.
STREAMED = "ModelStreamInfer"

_NAMED = "1 string name, 2 string version"
_TENSOR = "1 string name, 2 string datatype, 3 int64* shape"
_FIELDS: Mapping[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "1 bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "1 bool ready",
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": "1 bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "1 string name, 2 string version, 3 string* extensions",
    "ModelMetadataRequest": _NAMED,
    "TensorMetadata": _TENSOR,
    "ModelMetadataResponse": (
        "1 string name, 2 string* versions, 3 string platform, 4 TensorMetadata* inputs, 5 TensorMetadata* outputs"
    ),
    "InferTensorContents": (
        "1 bool* bool_contents, 2 int32* int_contents, 3 int64* int64_contents, 4 uint32* uint_contents,"
        " 5 uint64* uint64_contents, 6 float* fp32_contents, 7 double* fp64_contents, 8 bytes* bytes_contents"
    ),
    "InferInputTensor": f"{_TENSOR}, 5 InferTensorContents contents",
    "InferRequestedOutputTensor": "1 string name",
    "ModelInferRequest": (
        "1 string model_name, 2 string model_version, 3 string id, 5 InferInputTensor* inputs,"
        " 6 InferRequestedOutputTensor* outputs, 7 bytes* raw_input_contents"
    ),
    "InferOutputTensor": _TENSOR,
    "ModelInferResponse": (
        "1 string model_name, 2 string model_version, 3 string id, 5 InferOutputTensor* outputs,"
        " 6 bytes* raw_output_contents"
    ),
    "ModelStreamInferResponse": "1 string error_message, 2 ModelInferResponse infer_response",
    "ModelConfigRequest": _NAMED,
    "ModelInput": "1 string name, 2 int32 data_type, 4 int64* dims",
    "ModelOutput": "1 string name, 2 int32 data_type, 3 int64* dims",
    "ModelConfig": (
        "1 string name, 2 string platform, 4 int32 max_batch_size, 5 ModelInput* input,"
        " 6 ModelOutput* output, 14 ParameterEntry* parameters, 17 string backend"
    ),
    "ModelParameter": "1 string string_value",
    "ParameterEntry": "1 string key, 2 ModelParameter value",
    "ModelConfigResponse": "1 ModelConfig config",
    "ModelStatisticsRequest": _NAMED,
    "StatisticDuration": "1 uint64 count, 2 uint64 ns",
    "InferStatistics": "1 StatisticDuration success, 2 StatisticDuration fail",
    "ModelStatistics": (
        "1 string name, 2 string version, 3 uint64 last_inference, 4 uint64 inference_count,"
        " 5 uint64 execution_count, 6 InferStatistics inference_stats"
    ),
    "ModelStatisticsResponse": "1 ModelStatistics* model_stats",
    "RepositoryIndexRequest": "1 string repository_name, 2 bool ready",
    "ModelIndex": "1 string name, 2 string version, 3 string state, 4 string reason",
    "RepositoryIndexResponse": "1 ModelIndex* models",
    "RepositoryModelLoadRequest": "1 string repository_name, 2 string model_name",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "1 string repository_name, 2 string model_name",
    "RepositoryModelUnloadResponse": "",
}


def _described() -> Any:
    """Return the service, and a message for every entry of the table, in a pool of their own.

    A client in this process may have others of these names.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="superposed/inference.proto", package="inference", syntax="proto3")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for line in filter(None, fields.split(", ")):
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
