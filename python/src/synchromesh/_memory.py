"""Maps what the daemon hands out, and reads the words in it.

A mapping has no close: it goes with the last view of it, so that no view ever points nowhere.

Words of 4 and 8 bytes are read and written through `memoryview.cast`, which makes one aligned access of each: the
interpreter copies an item of a native format with a memcpy of constant size, and that is one instruction. `struct` with
"<Q" would go byte by byte, and could see half of an old word and half of a new one.

Not here: what the words mean.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

import numpy as np
from numpy.typing import NDArray

from .dtypes import Array
from .errors import ProtocolError

# Not in the fcntl module of every Python that is supported.
_F_GET_SEALS = 1034
SHRINK = 0x2
READ_ONLY = SHRINK | 0x10  # F_SEAL_FUTURE_WRITE

_HEADER = struct.Struct("<8sII16sQQ")
_LIFE = 48
_SESSIONS = 64
_SLOTS = 576
_OWNER_DIED = 1 << 30
_NO_TASK = 0xFFFF
_NOWHERE = 0xFFFFFFFF
_REVOKED = 64
# In the place of a revoked generation: the daemon has ended the membership.
ENDED = 2**64 - 1


def sealed(descriptor: int, what: str, seals: int, least: int) -> int:
    """The size of a sealed memory in bytes; it must have at least `least`."""
    try:
        found = fcntl.fcntl(descriptor, _F_GET_SEALS)
    except OSError as error:
        raise ProtocolError(f"{what}: not memory that can be sealed") from error
    if found & seals != seals:
        raise ProtocolError(f"{what}: not sealed (seals {found:#x}, needed {seals:#x}): it could change under us")
    size = os.fstat(descriptor).st_size
    if size < least:
        raise ProtocolError(f"{what}: has {size} bytes, {least} are needed")
    return size


def mapped(descriptor: int, what: str, seals: int, least: int, writable: bool = False) -> mmap.mmap:
    """All of a sealed memory, which must have at least `least` bytes."""
    size = sealed(descriptor, what, seals, least)
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(descriptor, size, mmap.MAP_SHARED, protection)


class Table:
    """The shared table: what each session serves, and where each block is."""

    def __init__(self, descriptor: int) -> None:
        memory = mapped(descriptor, "the table", READ_ONLY, _SLOTS)
        magic, self.blocks, self.slots, self.bundle_id, self.slot_bytes, self.base_bytes = _HEADER.unpack_from(memory)
        if magic != b"SMTABLE1":
            raise ProtocolError("the table: none of this protocol")
        if len(memory) < _SLOTS + 4 * self.blocks:
            raise ProtocolError(f"the table: too small for {self.blocks} blocks")
        self._slot_of: NDArray[np.uint32] = np.frombuffer(memory, np.uint32, self.blocks, _SLOTS)
        self._words = memoryview(memory)[_SESSIONS:_SLOTS].cast("Q")
        self._life = memoryview(memory)[_LIFE : _LIFE + 4].cast("I")

    def daemon_is_gone(self) -> bool:
        """Whether the kernel has told of the daemon's end."""
        return bool(self._life[0] & _OWNER_DIED)

    def word(self, place: int) -> int:
        """The session word at a place."""
        return self._words[place]

    def slots_of(self, blocks: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The slot of each block; all must be in one."""
        if blocks.size and blocks.max() >= self.blocks:
            raise ProtocolError(f"the index names block {blocks.max()} of {self.blocks}")
        slots = self._slot_of[blocks]
        if slots.size and slots.max() >= self.slots:
            where = "in none" if slots.max() == _NOWHERE else f"{slots.max()} of {self.slots}"
            raise ProtocolError(f"the table does not say where a block of the active task is: its slot is {where}")
        return slots


def generation_and_task(word: int) -> tuple[int, int | None]:
    """What a session word says; the task is an index, or `None`."""
    generation, task = divmod(word, 0x10000)
    return generation, None if task == _NO_TASK else task


class Cell:
    """The client's own cell: what it reads, and whether the daemon has lost patience."""

    def __init__(self, descriptor: int) -> None:
        memory = mapped(descriptor, "the cell", SHRINK, _REVOKED + 8, writable=True)
        self._words = memoryview(memory)[: _REVOKED + 8].cast("Q")

    def announce(self, generation: int) -> None:
        """Stores the epoch; 0 for none."""
        self._words[0] = generation

    def revoked(self) -> int:
        """The generation whose lease has lasted too long, 0 for none, or `ENDED`."""
        return self._words[_REVOKED // 8]


class Pool:
    """The pool: `base` in bytes, and behind it `slots`, [slots, block rows, block cols]."""

    def __init__(self, descriptor: int, table: Table, block: tuple[int, int], dtype: str) -> None:
        start = -(-table.base_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        end = start + table.slots * table.slot_bytes
        memory = mapped(descriptor, "the pool", READ_ONLY, max(end, 1))
        whole: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        self.base = whole[: table.base_bytes]
        self.slots: Array = whole[start:end].view(dtype).reshape(table.slots, *block)
