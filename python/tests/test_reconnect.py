"""The control plane goes away for a while and comes back."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from live import HANG_S, short_folder

from synchromesh import Control, ControlError
from synchromesh.v1 import task_service_pb2 as messages
from synchromesh.v1.task_service_pb2_grpc import TaskServiceServicer, add_TaskServiceServicer_to_server

# Long enough that pauses between attempts, were they not limited, would have grown to more than five seconds.
OUTAGE_S = 20.0
# What is promised, however long the outage was.
LIMIT_S = 1.0


class Service(TaskServiceServicer):
    """Answers one call."""

    def GetStatus(self, request: Any, context: Any) -> messages.GetStatusResponse:  # noqa: N802
        return messages.GetStatusResponse(version="fake")


def served(path: Path) -> grpc.Server:
    """A server at this socket."""
    server = grpc.server(ThreadPoolExecutor(1))
    add_TaskServiceServicer_to_server(Service(), server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    return server


def ask_until(control: Control, end: float) -> bool:
    """Asks for the status again and again, and says whether it was answered in time."""
    while time.monotonic() < end:
        try:
            control.status(timeout=HANG_S)
        except ControlError as error:
            assert error.code is grpc.StatusCode.UNAVAILABLE
            time.sleep(0.02)
        else:
            return True
    return False


def test_a_daemon_that_comes_back_after_a_long_outage_is_found_within_a_second() -> None:
    with short_folder() as folder, Control(folder / "control.sock") as control:
        path = folder / "control.sock"
        server = served(path)
        control.status(timeout=HANG_S)
        server.stop(None).wait()
        path.unlink(missing_ok=True)
        end = time.monotonic() + OUTAGE_S
        assert not ask_until(control, end), "nobody answers"
        server = served(path)
        assert ask_until(control, time.monotonic() + LIMIT_S), f"not answered within {LIMIT_S} s"
        server.stop(None).wait()
