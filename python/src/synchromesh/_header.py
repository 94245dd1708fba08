"""The header of a bundle and the tables of its index, in the image of both that the daemon hands out: the index lies
right behind the header.

The header is read; the index is mapped. Each offset is checked against what is mapped before it is used.

Not here: the digest over header and index. The daemon has checked the copy that it hands out, sealed.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from typing import Any, NamedTuple

import numpy as np

from .dtypes import DTYPES, Array
from .errors import ProtocolError

_MAX_HEADER = 64 << 20
_INDEX = ("index/", "grid/", "own/", "tasks/")


class Entry(NamedTuple):
    """What the header says of a tensor; its bytes lie from `begin` to `end` of the bundle's file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Image:
    """A header, and the index that it tells of. Arrays are views onto the mapped index, made when asked for."""

    def __init__(self, descriptor: int) -> None:
        # Types and shapes repeat; of each, one is kept.
        self._seen: dict[Any, Any] = {}
        size = os.fstat(descriptor).st_size
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if size < 8 or length > min(_MAX_HEADER, size - 8):
            raise ProtocolError(f"the index: a header of {length} bytes cannot be")
        self._data_start = 8 + length
        try:
            header = json.loads(os.pread(descriptor, length, 8), object_pairs_hook=self._object)
            self.meta: dict[str, Any] = json.loads(header.pop("__metadata__")["synchromesh"])
            self.entries: dict[str, Entry] = header
            self._map(descriptor, size)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProtocolError(f"the index: not a bundle's: {error!r}") from error

    def _map(self, descriptor: int, size: int) -> None:
        """Maps the index. `_start` and `_end` are where it lies in the file, `_mapped` is where the mapping begins."""
        self._start = min(entry.begin for name, entry in self.entries.items() if name.startswith(_INDEX))
        self._end = max(entry.end for entry in self.entries.values())
        if self._start < self._data_start or self._data_start + self._end - self._start != size:
            raise ProtocolError("the index: it is not as long as its header says")
        begin = self._data_start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        self._memory = mmap.mmap(descriptor, size - begin, mmap.MAP_SHARED, mmap.PROT_READ, offset=begin)
        self._mapped = self._start - (self._data_start - begin)

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        """Makes an entry of a tensor's object as soon as it is read: dicts would take much more memory."""
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        if found.keys() != {"dtype", "shape", "data_offsets"}:
            return found
        begin, end = (self._data_start + int(offset) for offset in found["data_offsets"])
        dtype, shape = str(found["dtype"]), tuple(map(int, found["shape"]))
        return Entry(self._seen.setdefault(dtype, dtype), self._seen.setdefault(shape, shape), begin, end)

    def check(self, name: str, dtype: str, shape: tuple[int, ...]) -> Entry:
        """A tensor of the index, which must be there, have this type and shape, and lie within the image."""
        entry = self.entries.get(name)
        if not isinstance(entry, Entry) or (entry.dtype, entry.shape) != (dtype, shape):
            raise ProtocolError(f"the index: {name} is not {dtype} {list(shape)}: {entry}")
        if not self._start <= entry.begin <= entry.end <= self._end:
            raise ProtocolError(f"the index: {name} lies outside")
        if entry.end - entry.begin != math.prod(shape) * DTYPES[dtype].bytes:
            raise ProtocolError(f"the index: {name} has another length than its shape")
        return entry

    def table(self, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """The same as an array."""
        begin = self.check(name, dtype, shape).begin - self._mapped
        return np.frombuffer(self._memory, DTYPES[dtype].numpy, math.prod(shape), begin).reshape(shape)
