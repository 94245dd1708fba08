"""What a refused gRPC call says, taken apart.

Not here: any decision. Programs decide by code and reason, never by message.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.message import DecodeError

from .v1 import rpc_error_pb2

_DETAILS = "grpc-status-details-bin"


class ControlError(Exception):
    """A call was refused, or did not get through.

    `code` is gRPC's; `reason` is stable and in upper case, or empty if the daemon gave none (it may not have been
    reached); `metadata` belongs to the reason; `retry_after_s` is how long to wait before another try, if told.
    """

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details() or ""
        self.reason = ""
        self.metadata: Mapping[str, str] = {}
        self.retry_after_s: float | None = None
        self._read(dict(error.trailing_metadata() or ()).get(_DETAILS, b""))
        super().__init__(f"{self.code.name}{' ' if self.reason else ''}{self.reason}: {self.message}")

    def _read(self, details: bytes) -> None:
        try:
            for detail in rpc_error_pb2.Status.FromString(details).details:
                kind = detail.type_url.rpartition("/")[2]
                if kind == "google.rpc.ErrorInfo":
                    info = rpc_error_pb2.ErrorInfo.FromString(detail.value)
                    self.reason, self.metadata = info.reason, dict(info.metadata)
                elif kind == "google.rpc.RetryInfo":
                    delay = rpc_error_pb2.RetryInfo.FromString(detail.value).retry_delay
                    self.retry_after_s = delay.ToTimedelta().total_seconds()
        except DecodeError:
            pass  # Whoever answered is no daemon of ours: code and message are all there is.
