"""Calls of TaskService through what the daemon says of itself: no stub and no .proto file is used."""

from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from daemon import HANG_S

SERVICE = "synchromesh.v1.TaskService"


class TaskService:
    """The service behind a connection."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.database)
        self.descriptor = self.pool.FindServiceByName(SERVICE)

    def call(self, method: str, timeout: float = HANG_S, **fields: Any) -> Any:
        """Makes a call and gives its response."""
        described = self.descriptor.methods_by_name[method]
        request, response = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
        invoke = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return invoke(request(**fields), timeout=timeout)

    def switch(self, task: str, **fields: Any) -> Any:
        """Makes a task active in the default session."""
        return self.call("SwitchTask", task=task, **fields)

    def generation(self) -> int:
        """The default session's generation."""
        (model,) = self.call("GetStatus").models
        return next(session.generation for session in model.sessions if session.session == "default")

    def value_of(self, enum: str, name: str) -> int:
        """The number of an enum's value."""
        return self.pool.FindEnumTypeByName(f"synchromesh.v1.{enum}").values_by_name[name].number


def error_info(error: grpc.RpcError) -> ErrorInfo:
    """The ErrorInfo of a refused call."""
    status = rpc_status.from_call(error)
    assert status is not None, "the details are a google.rpc.Status"
    info = ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details), "there is an ErrorInfo"
    return info
