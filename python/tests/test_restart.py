"""S: the daemon is killed while a client holds a lease, and comes back."""

from __future__ import annotations

import time

import pytest
from inputs import Inputs
from live import HANG_S, Daemon, serve, short_folder

from synchromesh import Attachment, Closed, Control, ControlError


def killed(daemon: Daemon) -> None:
    """Ends the daemon without giving it a chance to tell."""
    daemon.process.kill()
    daemon.process.wait(timeout=HANG_S)


def publish(daemon: Daemon, task: str) -> int:
    """Switches to a task."""
    with Control(daemon.control, HANG_S) as control:
        return control.switch_task(task).generation


def test_a_killed_daemon_leaves_its_memory_and_is_found_again(any_model: Inputs) -> None:
    expected = any_model.tasks["park"]["layer.0.weight"].tobytes()
    with short_folder() as folder:
        with serve(any_model.bundle, folder) as daemon:
            generation = publish(daemon, "park")
            session = Attachment(daemon.socket)
            lease = session.lease(generation)
            killed(daemon)
            assert lease.dense("layer.0.weight").tobytes() == expected, "what is mapped stays"
            lease.release()
            before = time.monotonic()
            for call in (session.lease, session.wait):
                with pytest.raises(Closed):
                    call()
            assert time.monotonic() - before < 1, "at once"
            session.close()
            with pytest.raises(Closed):
                Attachment(daemon.socket)
        with serve(any_model.bundle, folder) as daemon, Attachment(daemon.socket) as session:
            lease = session.lease(publish(daemon, "park"))
            assert lease.dense("layer.0.weight").tobytes() == expected


def test_a_daemon_that_stops_wakes_who_waits(any_model: Inputs) -> None:
    with short_folder() as folder, serve(any_model.bundle, folder) as daemon, Attachment(daemon.socket) as session:
        daemon.process.terminate()
        with pytest.raises(Closed):
            session.wait(timeout=HANG_S)


def test_the_first_call_after_an_outage_succeeds_however_many_failed_before(any_model: Inputs) -> None:
    with short_folder() as folder:
        with serve(any_model.bundle, folder) as daemon:
            control = Control(daemon.control, HANG_S)
            control.switch_task("park")
            killed(daemon)
            for _ in range(30):
                with pytest.raises(ControlError):
                    control.status()
                time.sleep(0.1)  # A channel of its own would wait seconds between attempts by now.
        with serve(any_model.bundle, folder), control:
            assert control.status().models
