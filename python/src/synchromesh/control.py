"""The control plane: which task a session has, and what the daemon holds.

The calls take the fields of their request messages (proto/synchromesh/v1/task_service.proto) by name, and give the
response messages, so that a field that the protocol gains needs no change here.

Not here: the weights, see `Attachment`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Callable

import grpc

from ._rpc_error import ControlError
from .v1 import task_service_pb2 as messages
from .v1.task_service_pb2_grpc import TaskServiceStub

_OPTIONS = [
    # A new channel connects at once only if it does not share the back-off of the channel before.
    ("grpc.use_local_subchannel_pool", 1),
]


class Control:
    """A connection to the daemon's control socket.

    `timeout` (seconds) bounds each call that has none of its own. Refused calls raise `ControlError`. A call after a
    broken connection connects anew, so the first call after the daemon is ready succeeds, however long it was away.
    Threads may share a connection.
    """

    def __init__(self, path: str | os.PathLike[str], timeout: float = 30.0) -> None:
        self.timeout = timeout
        self._target = f"unix:{os.fspath(path)}"
        self._connect()

    def _connect(self) -> None:
        """Makes a channel, which connects with its first call."""
        self._channel = grpc.insecure_channel(self._target, options=_OPTIONS)
        self._stub: Any = TaskServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def switch_task(self, task: str, *, timeout: float | None = None, **fields: Any) -> messages.SwitchTaskResponse:
        """Makes a task the active one; `generation` of the response is what to lease. Fields: SwitchTaskRequest."""
        request = messages.SwitchTaskRequest(task=task, **fields)
        response: messages.SwitchTaskResponse = self._call(self._stub.SwitchTask, request, timeout)
        return response

    def prepare_task(self, task: str, *, timeout: float | None = None, **fields: Any) -> messages.PrepareTaskResponse:
        """Loads a task without making it active. Fields: PrepareTaskRequest."""
        request = messages.PrepareTaskRequest(task=task, **fields)
        response: messages.PrepareTaskResponse = self._call(self._stub.PrepareTask, request, timeout)
        return response

    def hint_tasks(
        self,
        hints: Iterable[messages.TaskHint | Mapping[str, Any]] = (),
        *,
        timeout: float | None = None,
        **fields: Any,
    ) -> messages.HintTasksResponse:
        """Tells which tasks may come next: messages or dicts of TaskHint's fields. Fields: HintTasksRequest."""
        request = messages.HintTasksRequest(hints=hints, **fields)
        response: messages.HintTasksResponse = self._call(self._stub.HintTasks, request, timeout)
        return response

    def open_session(self, session: str, *, timeout: float | None = None, **fields: Any) -> messages.SessionStatus:
        """Opens a session, which has no task at first. Fields: OpenSessionRequest."""
        request = messages.OpenSessionRequest(session=session, **fields)
        response: messages.OpenSessionResponse = self._call(self._stub.OpenSession, request, timeout)
        return response.session

    def close_session(self, session: str, *, timeout: float | None = None, **fields: Any) -> None:
        """Closes a session. Fields: CloseSessionRequest."""
        request = messages.CloseSessionRequest(session=session, **fields)
        self._call(self._stub.CloseSession, request, timeout)

    def end_attachment(self, pid: int, *, timeout: float | None = None, **fields: Any) -> int:
        """Ends a process' attachments to a session, and gives how many. Fields: EndAttachmentRequest."""
        request = messages.EndAttachmentRequest(pid=pid, **fields)
        response: messages.EndAttachmentResponse = self._call(self._stub.EndAttachment, request, timeout)
        return response.ended

    def list_models(self, *, timeout: float | None = None, **fields: Any) -> list[messages.Model]:
        """The models that are loaded, with their tasks. Fields: ListModelsRequest."""
        request = messages.ListModelsRequest(**fields)
        response: messages.ListModelsResponse = self._call(self._stub.ListModels, request, timeout)
        return list(response.models)

    def status(self, *, timeout: float | None = None, **fields: Any) -> messages.GetStatusResponse:
        """The state of the daemon, its pools and its sessions. Fields: GetStatusRequest."""
        request = messages.GetStatusRequest(**fields)
        response: messages.GetStatusResponse = self._call(self._stub.GetStatus, request, timeout)
        return response

    def events(self, *, timeout: float | None = None, **fields: Any) -> Generator[messages.Event, None, None]:
        """What happens, as it happens. Fields: WatchEventsRequest.

        It ends when the daemon stops, and raises `ControlError` if the connection breaks. `timeout` (seconds) bounds
        all of it; without one nothing does. To go on after a break, give `after`.
        """
        request = messages.WatchEventsRequest(**fields)
        channel = self._channel
        try:
            for batch in self._stub.WatchEvents(request, timeout=timeout):
                yield from batch.events
        except grpc.RpcError as error:
            raise self._failed(channel, error) from error

    def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        channel = self._channel
        try:
            return method(request, timeout=self.timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise self._failed(channel, error) from error

    def _failed(self, channel: grpc.Channel, error: grpc.RpcError) -> ControlError:
        """What a failed call raises. If the connection broke, the next call gets a new channel.

        A channel waits longer and longer between attempts to connect, and grpcio before 1.58 looks at an attempt only
        every five seconds. Calls of other threads end on the old channel, which therefore is not closed.
        """
        failed = ControlError(error)
        is_broken = failed.code is grpc.StatusCode.UNAVAILABLE and not failed.reason
        if is_broken and channel is self._channel:
            self._connect()
        return failed

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
