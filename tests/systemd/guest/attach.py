"""A client of the data plane, written from docs/attach.md and docs/format.md and nothing else.

python3 attach.py BUNDLE

Attaches, and compares again and again all blocks of the active task with the bundle, under a lease. When the daemon is
gone it goes on with what it has mapped, and attaches again as soon as it can. For each pass it prints `attached` or
`alone`, with generation, task and the number of blocks, and ends with `wrong` at the first byte that differs.
"""

import ctypes
import json
import mmap
import os
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SOCKET = "/run/synchromesh/attach.sock"
DAEMON_GONE = 1 << 30
NO_TASK = 0xFFFF
NO_SLOT = 0xFFFFFFFF
SYS_FUTEX, FUTEX_WAKE = 202, 1
# How long anything may take before a check gives up; it measures nothing.
HANG_S = 60.0
LIBC = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The daemon, or the socket, does not let this client in."""


@dataclass(frozen=True)
class Bundle:
    """What a bundle's file holds."""

    blocks: memoryview
    block_bytes: int
    tasks: list[list[int]]
    names: list[str]

    @classmethod
    def read(cls, path: Path) -> "Bundle":
        """Reads a file that is known to be right."""
        raw = path.read_bytes()
        (length,) = struct.unpack_from("<Q", raw)
        header = json.loads(raw[8 : 8 + length])
        data = memoryview(raw)[8 + length :]
        count = header["blocks"]["shape"][0]
        begin, end = header["blocks"]["data_offsets"]
        names = [task["name"] for task in json.loads(header["__metadata__"]["synchromesh"])["tasks"]]
        tasks = []
        for name in names:
            first, last = header[f"tasks/{name}"]["data_offsets"]
            bits = data[first:last]
            tasks.append([block for block in range(count) if bits[block // 8] >> block % 8 & 1])
        return cls(data[begin:end], (end - begin) // count, tasks, names)

    def block(self, index: int) -> memoryview:
        """A block's bytes."""
        return self.blocks[index * self.block_bytes : (index + 1) * self.block_bytes]


class Knock:
    """A hello that may not be answered yet: while a daemon starts, its socket takes callers in all the same."""

    def __init__(self, path: str = SOCKET) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(HANG_S)
        try:
            self.socket.connect(path)
            self.socket.send(b"SMATTACH" + struct.pack("<II", 1, 0) + bytes(128))
        except OSError as error:
            raise Refused(str(error)) from error

    @property
    def is_answered(self) -> bool:
        """Whether there is an answer, or the connection has ended."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def answer(self) -> tuple[int, list[int]]:
        """Waits for the session's place in the table, and the descriptors."""
        try:
            welcome, fds, _, _ = socket.recv_fds(self.socket, 280, 8)
        except OSError as error:
            raise Refused(str(error)) from error
        if len(welcome) < 280:
            raise Refused("the connection was closed")
        _, status, place, _ = struct.unpack_from("<IIII", welcome, 8)
        if status != 0:
            why = welcome[24:].rstrip(b"\0").decode()
            raise Refused(f"status {status}: {why}")
        return place, list(fds)


class Attachment:
    """A session's memory, mapped."""

    def __init__(self, bundle: Bundle, knock: Knock) -> None:
        self.bundle, self.socket = bundle, knock.socket
        self.place, fds = knock.answer()
        pool, table, _, cell = (self.map(fd, writable=number == 3) for number, fd in enumerate(fds[:4]))
        for fd in fds:
            os.close(fd)
        self.pool, self.table = memoryview(pool), memoryview(table)
        # Single stores and loads: what lies in the table and the cell is shared with the daemon.
        self.epoch = ctypes.c_uint64.from_buffer(cell, 0)
        self.revoked = ctypes.c_uint64.from_buffer(cell, 64)
        (self.base_bytes,) = struct.unpack_from("<Q", table, 40)

    @staticmethod
    def map(fd: int, *, writable: bool) -> mmap.mmap:
        """Maps a descriptor as a whole."""
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        return mmap.mmap(fd, 0, mmap.MAP_SHARED, prot)

    @property
    def is_alone(self) -> bool:
        """Whether the daemon is gone."""
        (life,) = struct.unpack_from("<I", self.table, 48)
        return bool(life & DAEMON_GONE) or self.revoked.value != 0

    def active(self) -> tuple[int, int]:
        """The session's generation and task."""
        (word,) = struct.unpack_from("<Q", self.table, 64 + 8 * self.place)
        return word >> 16, word & NO_TASK

    def check(self) -> tuple[int, str, int]:
        """Compares the active task with the bundle, and gives generation, task and number of blocks."""
        while True:
            generation, _ = self.active()
            self.epoch.value = generation
            # A futex call is a full barrier.
            LIBC.syscall(SYS_FUTEX, ctypes.byref(self.epoch), FUTEX_WAKE, 0, None, None, 0)
            again, task = self.active()
            if again == generation:
                break
        try:
            blocks = [] if task == NO_TASK else self.bundle.tasks[task]
            for block in blocks:
                if self.in_place(block) != self.bundle.block(block):
                    raise ValueError(f"block {block} of generation {generation} is wrong")
            return generation, "none" if task == NO_TASK else self.bundle.names[task], len(blocks)
        finally:
            self.epoch.value = 0

    def in_place(self, block: int) -> memoryview:
        """A block where the daemon has it."""
        (slot,) = struct.unpack_from("<I", self.table, 576 + 4 * block)
        if slot == NO_SLOT:
            raise ValueError(f"block {block} is in no slot")
        size, page = self.bundle.block_bytes, mmap.PAGESIZE
        start = -(-self.base_bytes // page) * page + slot * size
        return self.pool[start : start + size]

    def close(self) -> None:
        """Ends the membership; what is mapped stays."""
        self.socket.close()


def again(bundle: Bundle, old: Attachment, knock: Knock | None) -> tuple[Attachment, Knock | None]:
    """Attaches anew if somebody answers, and waits for nobody."""
    try:
        knock = knock or Knock()
        if not knock.is_answered:
            return old, knock
        attachment = Attachment(bundle, knock)
    except Refused:
        return old, None
    old.close()
    return attachment, None


def main() -> None:
    """Checks until it is killed."""
    bundle = Bundle.read(Path(sys.argv[1]))
    attachment, knock = Attachment(bundle, Knock()), None
    try:
        while True:
            if attachment.is_alone:
                attachment, knock = again(bundle, attachment, knock)
            state = "alone" if attachment.is_alone else "attached"
            print(state, *attachment.check(), flush=True)
            time.sleep(0.02)
    except ValueError as error:
        print("wrong", error, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
