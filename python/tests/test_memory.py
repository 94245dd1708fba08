"""What attaching costs a process, whatever the size of the model."""

from __future__ import annotations

from live import Daemon, child, said

from synchromesh import Control

PROCESSES = 10
LIMIT_KIB = 10 * 1024


def test_ten_processes_grow_by_less_than_ten_mebibytes_each(daemon: Daemon, control: Control) -> None:
    control.switch_task("rain")
    clients = [child("grow", daemon.socket) for _ in range(PROCESSES)]
    # Only when all have read is memory that they share seen as shared.
    assert [client.stdout.readline() for client in clients] == ["read\n"] * PROCESSES
    grown = [int(said(client)) for client in clients]
    print(f"grown by {grown} KiB")
    assert max(grown) < LIMIT_KIB
