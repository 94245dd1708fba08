"""What the daemon does when room is short: patience with leases, switches in place, limits of attachments."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from inputs import Inputs
from live import HANG_S, Daemon, serve, short_folder

from synchromesh import Control, ControlError, Refused, Revoked
from synchromesh.v1 import task_service_pb2 as messages

RESOURCE_EXHAUSTED = 8


@contextmanager
def small(model: Inputs, limits: str = "", pool: str = "1MiB") -> Iterator[tuple[Daemon, Control]]:
    """A daemon with other limits, and its control plane."""
    more = f"limits: {{{limits}}}\n"
    with short_folder() as folder, serve(model.bundle, folder, more, pool) as daemon, Control(daemon.control) as calls:
        yield daemon, calls


def test_a_lease_that_lasts_too_long_is_revoked_and_told(any_model: Inputs) -> None:
    with small(any_model, "lease_patience_ms: 100") as (daemon, control), daemon.attach() as session:
        old = control.switch_task("park").generation
        with session.lease(old) as lease:
            control.switch_task("rain")
            session.wait(old, timeout=HANG_S)
            with pytest.raises(Revoked):
                session.wait(1 << 40, timeout=HANG_S)
            (told,) = control.status().models[0].sessions[0].leases
            assert (told.pid, told.uid, told.generation) == (os.getpid(), os.getuid(), old)
            assert (told.task, told.revoked) == ("park", True)
            expected = any_model.tasks["park"]["layer.0.weight"].tobytes()
            assert lease.dense("layer.0.weight").tobytes() == expected, "nothing is overwritten"
        with pytest.raises(Revoked):
            session.lease()
        with daemon.attach() as again, again.lease() as lease:
            assert lease.task == "rain"


def test_a_pool_for_one_task_is_switched_in_place(any_model: Inputs) -> None:
    # As many slots as the largest task has blocks.
    with small(any_model, pool="56KiB") as (daemon, control), daemon.attach() as session:
        before = control.switch_task("city").generation
        with pytest.raises(ControlError) as full:
            control.switch_task("rain")
        assert (full.value.code, full.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "POOL_FULL")
        assert full.value.retry_after_s == pytest.approx(0.5)
        switched = control.switch_task("rain", mode=messages.SWITCH_MODE_IN_PLACE)
        assert (switched.in_place, switched.generation) == (True, before + 2)
        assert session.wait(before, timeout=HANG_S) == switched.generation
        with session.lease(switched.generation) as lease:
            expected = any_model.tasks["rain"]["layer.0.weight"].tobytes()
            assert lease.dense("layer.0.weight").tobytes() == expected


def test_a_process_has_so_many_attachments_and_no_more(any_model: Inputs) -> None:
    with small(any_model, "attachments_per_process: 2") as (daemon, _), contextlib.ExitStack() as opened:
        for _ in range(2):
            opened.enter_context(daemon.attach())
        with pytest.raises(Refused) as refused:
            daemon.attach()
        assert refused.value.status == RESOURCE_EXHAUSTED
