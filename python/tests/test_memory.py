"""What attaching costs a process, whatever the size of the model."""

from __future__ import annotations

from pathlib import Path

from live import HANG_S, Daemon, child, said, serve, short_folder

from synchromesh import Control

PROCESSES = 10
LIMIT_KIB = 10 * 1024


def grown(daemon: Daemon) -> list[int]:
    """By how many KiB each of ten processes grows that attach and read all of a task."""
    with Control(daemon.control, HANG_S) as control:
        control.switch_task(control.list_models()[0].tasks[-1].name)
    clients = [child("grow", daemon.socket) for _ in range(PROCESSES)]
    # Only when all have read is memory that they share seen as shared.
    assert [client.stdout.readline() for client in clients] == ["read\n"] * PROCESSES
    sizes = [int(said(client)) for client in clients]
    print(f"grown by {sizes} KiB")
    return sizes


def test_ten_processes_grow_by_less_than_ten_mebibytes_each(daemon: Daemon) -> None:
    assert max(grown(daemon)) < LIMIT_KIB


def test_so_they_do_with_a_real_model(minilm: Path) -> None:
    # Its base has 46 MiB, and each task 20 MiB of blocks.
    with short_folder() as folder, serve(minilm, folder, pool="24MiB") as daemon:
        assert max(grown(daemon)) < LIMIT_KIB
