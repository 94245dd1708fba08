"""The header of a safetensors image, as docs/format.md bounds it: which tensors lie where in it.

Not here: the digest over header and index. The daemon checked it before it handed the image out, sealed.
"""

from __future__ import annotations

import json
import mmap
from typing import Any, NamedTuple

import numpy as np

from .dtypes import DTYPES, Array
from .errors import ProtocolError

_MAX_HEADER = 64 << 20


class Entry(NamedTuple):
    """What the header says of a tensor; its bytes lie from `begin` to `end` of the image."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Image:
    """A mapped image, and its header. Arrays are views onto the mapping."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        length = int.from_bytes(memory[:8], "little")
        if len(memory) < 8 or length > min(_MAX_HEADER, len(memory) - 8):
            raise ProtocolError(f"the index: a header of {length} bytes cannot be")
        self._data_start = 8 + length
        try:
            header = json.loads(memory[8 : 8 + length], object_pairs_hook=self._object)
            self.meta: dict[str, Any] = json.loads(header.pop("__metadata__")["synchromesh"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProtocolError(f"the index: not a bundle's: {error!r}") from error
        self.entries: dict[str, Entry] = {name: entry for name, entry in header.items() if isinstance(entry, Entry)}

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        """Makes an entry of a tensor's object as soon as it is read: dicts would take much more memory."""
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        if found.keys() != {"dtype", "shape", "data_offsets"}:
            return found
        begin, end = (self._data_start + int(offset) for offset in found["data_offsets"])
        return Entry(found["dtype"], tuple(map(int, found["shape"])), begin, end)

    def table(self, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """A tensor of the index, which must be there and have this type and shape."""
        entry = self.entries.get(name)
        if entry is None or (entry.dtype, entry.shape) != (dtype, shape):
            raise ProtocolError(f"the index: {name} is not {dtype} {list(shape)}: {entry}")
        held = np.dtype(DTYPES[dtype].numpy)
        count = int(np.prod(shape, dtype=object))
        if not self._data_start <= entry.begin <= entry.end <= len(self._memory):
            raise ProtocolError(f"the index: {name} lies outside")
        if entry.end - entry.begin != count * held.itemsize:
            raise ProtocolError(f"the index: {name} has another length than its shape")
        return np.frombuffer(self._memory, held, count, entry.begin).reshape(shape)
