"""What tests have other processes do: child.py WHAT [ARGUMENT ...]. Prints one line."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import select
import sys

import synchromesh
from synchromesh import Attachment, Control


def switch(control: str, *tasks: str) -> int:
    """Switches as fast as it can until standard input ends, and says how often."""
    switches, order = 0, random.Random(0)
    with Control(control) as calls:
        while not select.select([sys.stdin], [], [], 0)[0]:
            # In no fixed order: leases could fall into step with it.
            calls.switch_task(order.choice(tasks))
            switches += 1
    return switches


def attach_as(user: str, socket: str) -> str:
    """Attaches as another user, and says what came of it."""
    os.setgid(int(user))
    os.setuid(int(user))
    try:
        Attachment(socket).close()
    except synchromesh.Refused as refused:
        return f"{refused.status} {refused.text}"
    return "attached"


def attach_limited(free: str, socket: str) -> str:
    """Attaches where only so many descriptors are free, and says what came of it and how many were left open."""
    before = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The count has the descriptor in it that listed the folder.
    resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + int(free), limits[1]))
    try:
        Attachment(socket).close()
        outcome = "attached"
    except synchromesh.AttachError as error:
        outcome = type(error).__name__
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return f"{outcome} {len(os.listdir('/proc/self/fd')) - before}"


def write(socket: str) -> str:
    """Writes to a block in place, past numpy."""
    with Attachment(socket).lease() as lease:
        view = next(lease.blocks("layer.0.weight"))[2]
        ctypes.memset(view.ctypes.data, 0, 1)
    return "written"


def private_kib() -> int:
    """Memory that this process shares with no other, in KiB."""
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def grow(socket: str) -> int:
    """Attaches and reads everything of the task; says by how many KiB the process has grown, once all have read."""
    # What loading and first use of the libraries take is not counted.
    import numpy as np

    np.zeros(4).sum()
    before = private_kib()
    session = Attachment(socket)
    with session.lease() as lease:
        for name in lease.model.tensors:
            for _, _, view in lease.blocks(name):
                view.max()
        for name in lease.model.base:
            lease.base(name).max()
        print("read", flush=True)
        sys.stdin.readline()
        return private_kib() - before


if __name__ == "__main__":
    print({f.__name__: f for f in (switch, attach_as, attach_limited, write, grow)}[sys.argv[1]](*sys.argv[2:]))
