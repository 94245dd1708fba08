"""Attaching, leasing and waiting, with the daemon that is ours."""

from __future__ import annotations

import os
import select
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from inputs import CUT, TASKS, Array, Inputs
from live import HANG_S, Daemon, child, said, serve, short_folder

from synchromesh import Closed, Control, LeaseError, NoTask, StaleGeneration

SWITCHED = ("city", "fog", "park")


def test_a_lease_is_on_what_the_switch_published(daemon: Daemon, control: Control) -> None:
    with daemon.attach() as session:
        for task in TASKS:
            generation = control.switch_task(task).generation
            assert session.wait(generation - 1, timeout=0) == generation == session.generation
            with session.lease(generation) as lease:
                assert (lease.task, lease.generation) == (task, generation)


def test_a_generation_that_has_passed_cannot_be_leased(daemon: Daemon, control: Control) -> None:
    old = control.switch_task("city").generation
    new = control.switch_task("fog").generation
    with daemon.attach() as session:
        with pytest.raises(StaleGeneration) as stale:
            session.lease(old)
        assert (stale.value.wanted, stale.value.found) == (old, new)
        session.lease(new).release()


def test_a_second_lease_is_refused_and_a_second_attachment_is_not(daemon: Daemon, control: Control) -> None:
    control.switch_task("city")
    with daemon.attach() as session, daemon.attach() as other, session.lease() as lease:
        with pytest.raises(LeaseError):
            session.lease()
        other.lease().release()
        lease.release()
        session.lease().release()


def test_a_lease_keeps_its_task_while_the_session_goes_on(daemon: Daemon, control: Control, any_model: Inputs) -> None:
    control.switch_task("park")
    with daemon.attach() as session, session.lease() as lease:
        views = [(row, col, view) for row, col, view in lease.blocks("layer.0.weight")]
        for task in ("city", "rain", "fog"):
            control.switch_task(task)
        (model,) = control.status().models
        assert [s.draining_generations for s in model.sessions if s.session == "default"] == [1]
        expected = any_model.tasks["park"]["layer.0.weight"]
        for row, col, view in views:
            assert view.tobytes() == expected[row : row + view.shape[0], col : col + view.shape[1]].tobytes()


def test_a_session_without_a_task_has_nothing_to_lease(daemon: Daemon, control: Control) -> None:
    control.open_session("bare")
    with daemon.attach("bare") as session:
        with pytest.raises(NoTask):
            session.lease()
        with pytest.raises(TimeoutError):
            session.wait(timeout=0.05)
        switched = threading.Timer(0.1, control.switch_task, ["city"], {"session": "bare"})
        switched.start()
        assert session.wait(timeout=HANG_S) == 1
        switched.join()
        session.lease().release()
    deadline = time.monotonic() + HANG_S
    while any(s.clients for s in control.status().models[0].sessions if s.session == "bare"):
        assert time.monotonic() < deadline
    control.close_session("bare")


def test_an_attachment_that_an_operator_ends_gets_no_other_lease(daemon: Daemon, control: Control) -> None:
    control.open_session("ended")
    control.switch_task("city", session="ended")
    with daemon.attach("ended") as session:
        with session.lease() as lease:
            assert control.end_attachment(os.getpid(), session="ended") == 1
            assert lease.task == "city", "what it reads stays"
        with pytest.raises(Closed):
            session.lease()
        with pytest.raises(Closed):
            session.wait(timeout=HANG_S)
    control.close_session("ended")


def test_a_poll_sees_a_publication(daemon: Daemon, control: Control) -> None:
    before = control.switch_task("city").generation
    with daemon.attach() as session:
        poll = select.poll()
        poll.register(session, select.POLLIN)
        assert poll.poll(0) == []
        generation = control.switch_task("fog").generation
        assert [descriptor for descriptor, _ in poll.poll(HANG_S * 1000)] == [session.fileno()]
        assert session.wait(before, timeout=0) == generation
        assert poll.poll(0) == [], "and is silent when it was looked at"


def test_a_closed_attachment_is_told(daemon: Daemon) -> None:
    session = daemon.attach()
    session.close()
    session.close()
    for call in (session.lease, session.wait):
        with pytest.raises(Closed):
            call()


def test_leases_under_switching_never_see_two_tasks(any_model: Inputs) -> None:
    # Just room for any two of these tasks, so that slots are used again and again.
    with short_folder() as folder, serve(any_model.bundle, folder, pool="64KiB") as daemon:
        compare_under_switching(daemon, any_model)


def compare_under_switching(daemon: Daemon, any_model: Inputs) -> None:
    """Leases for a while, and compares all that each shows with what its task must have."""
    sums = {task: {n: zlib.crc32(any_model.tasks[task][n].tobytes()) for n in CUT} for task in SWITCHED}
    switcher = child("switch", daemon.control, *SWITCHED)
    seen: dict[str, int] = dict.fromkeys(SWITCHED, 0)
    generations = set()
    with daemon.attach() as session:
        session.wait(timeout=HANG_S)
        until = time.monotonic() + 3
        while time.monotonic() < until or min(seen.values()) == 0:
            assert time.monotonic() < until + HANG_S
            with session.lease() as lease:
                views = {name: list(lease.blocks(name)) for name in CUT}
                # Long enough for what nothing protects to be overwritten.
                time.sleep(0.005)
                for name, shape in CUT.items():
                    assert zlib.crc32(pasted(shape, views[name])) == sums[lease.task][name], (lease.task, name)
                seen[lease.task] += 1
                generations.add(lease.generation)
    assert int(said(switcher)) > 10
    assert len(generations) > 10


def pasted(shape: tuple[int, int], blocks: list[tuple[int, int, Array]]) -> bytes:
    """The bytes of a tensor that has these blocks."""
    dense = np.zeros(shape, np.float32)
    for row, col, view in blocks:
        dense[row : row + view.shape[0], col : col + view.shape[1]] = view
    return dense.tobytes()


def test_a_path_may_be_of_any_kind(daemon: Daemon) -> None:
    for path in (str(daemon.socket), Path(daemon.socket)):
        type(daemon.attach())(path).close()
