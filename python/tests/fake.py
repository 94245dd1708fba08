"""A daemon in a few lines, which also does what a daemon of ours never does.

Not here: reading, eviction, patience; tests write its words themselves.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

F_ADD_SEALS = 1033
SHRINK, GROW, FUTURE_WRITE = 0x2, 0x4, 0x10
READ_ONLY = SHRINK | GROW | FUTURE_WRITE
OWNER_DIED = 1 << 30
NO_TASK = 0xFFFF
WORD, LIFE, REVOKED = 64, 48, 64


def memory(content: bytes, size: int, seals: int) -> tuple[int, mmap.mmap]:
    """A sealed memory, and the owner's view of it."""
    descriptor = os.memfd_create("fake", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    view = mmap.mmap(descriptor, size)
    view[: len(content)] = content
    fcntl.fcntl(descriptor, F_ADD_SEALS, seals)
    return descriptor, view


def image(bundle: bytes) -> bytes:
    """Header and index of a bundle, as they are handed out."""
    start = 8 + int.from_bytes(bundle[:8], "little")
    index = "index/", "grid/", "own/", "tasks/"
    entries = json.loads(bundle[8:start]).items()
    first = min(entry["data_offsets"][0] for name, entry in entries if name.startswith(index))
    return bundle[:start] + bundle[start + first :]


@dataclass
class Fake:
    """What the next client is told and given. Everything may be changed before it attaches, words after it, too."""

    bundle: Path
    version: int = 1
    status: int = 0
    text: bytes = b""
    place: int = 3
    answer: Callable[[bytes], bytes] = lambda packet: packet
    seals: list[int] = field(default_factory=lambda: [READ_ONLY, READ_ONLY, READ_ONLY, SHRINK | GROW])
    change: Callable[[str, bytearray], None] = lambda _what, _content: None
    hello: bytes = b""
    views: dict[str, mmap.mmap] = field(default_factory=dict)
    busy: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.raw = self.bundle.read_bytes()
        (length,) = struct.unpack_from("<Q", self.raw)
        self.start = 8 + length
        header: dict[str, Any] = json.loads(self.raw[8 : self.start])
        self.meta = json.loads(header.pop("__metadata__")["synchromesh"])
        self.count = header["blocks"]["shape"][0]
        self.block_bytes = header["blocks"]["data_offsets"][1] // self.count
        ends = [entry["data_offsets"] for name, entry in header.items() if name.startswith("base/")]
        self.base = min(ends)[0], max(end for _, end in ends)

    def contents(self) -> dict[str, bytearray]:
        """Pool, table, index and cell. Block i is in slot count - 1 - i."""
        data = self.raw[self.start :]
        base = data[self.base[0] : self.base[1]]
        blocks = [data[i * self.block_bytes : (i + 1) * self.block_bytes] for i in range(self.count)]
        pool = base + bytes(-len(base) % mmap.PAGESIZE) + b"".join(reversed(blocks))
        identity = bytes.fromhex(self.meta["bundle_id"])
        head = struct.pack("<8sII16sQQ", b"SMTABLE1", self.count, self.count, identity, self.block_bytes, len(base))
        sessions = np.full(64, NO_TASK, np.uint64).tobytes()
        table = head + bytes(16) + sessions + np.arange(self.count, dtype=np.uint32)[::-1].tobytes()
        made = {"pool": pool, "table": table, "index": image(self.raw), "cell": bytes(4096)}
        return {name: bytearray(content) for name, content in made.items()}

    def serve(self, listener: socket.socket) -> None:
        """Attaches clients, one after another, until the socket is closed."""
        while True:
            try:
                self.peer, _ = listener.accept()
            except OSError:
                return
            with self.busy:
                self.hello = self.peer.recv(1000)
                self._welcome()

    def _welcome(self) -> None:
        contents = self.contents()
        for name, content in contents.items():
            self.change(name, content)
        made = [memory(c, len(c), seals) for c, seals in zip(contents.values(), self.seals)]
        self.views = dict(zip(contents, (view for _, view in made)))
        client, self.doorbell = os.pipe()
        packet = struct.pack("<8sIIII256s", b"SMATTACH", self.version, self.status, self.place, 0, self.text)
        descriptors = [descriptor for descriptor, _ in made] + [client]
        sent = b"" if self.status else np.array(descriptors, np.int32).tobytes()
        self.peer.sendmsg([self.answer(packet)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)] if sent else [])
        for descriptor in descriptors:
            os.close(descriptor)

    def set_word(self, what: str, offset: int, form: str, value: int) -> None:
        """Writes a word into what the client has mapped."""
        struct.pack_into(form, self.views[what], offset, value)

    def word(self, what: str, offset: int) -> int:
        """Reads an 8-byte word of what the client has mapped."""
        return int(struct.unpack_from("<Q", self.views[what], offset)[0])

    def publish(self, generation: int, task: int) -> None:
        """Publishes a generation and rings."""
        self.set_word("table", WORD + 8 * self.place, "<Q", generation << 16 | task)
        self.doorbell_rings()

    def doorbell_rings(self) -> None:
        """Rings, whatever for."""
        os.write(self.doorbell, b"x")

    def hang_up(self) -> None:
        """Closes what a dying daemon leaves closed; its words stay."""
        with self.busy:
            self.peer.close()
            os.close(self.doorbell)


@contextmanager
def listening(bundle: Path, folder: Path) -> Iterator[tuple[Fake, Path]]:
    """A fake daemon, and the socket where it listens."""
    path = folder / "fake.sock"
    fake = Fake(bundle)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=fake.serve, args=(listener,), daemon=True)
        thread.start()
        yield fake, path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
