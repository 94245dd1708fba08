"""The header of a safetensors image, as docs/format.md bounds it: which tensors lie where in it.

Not here: the digest over header and index. The daemon checked it before it handed the image out, sealed.
"""

from __future__ import annotations

import json
import math
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
    """A mapped image, and its header. Arrays are views onto the mapping, made when they are asked for."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        # Types and shapes repeat; of each, one is kept.
        self._seen: dict[Any, Any] = {}
        length = int.from_bytes(memory[:8], "little")
        if len(memory) < 8 or length > min(_MAX_HEADER, len(memory) - 8):
            raise ProtocolError(f"the index: a header of {length} bytes cannot be")
        self._data_start = 8 + length
        try:
            header = json.loads(memory[8 : 8 + length], object_pairs_hook=self._object)
            self.meta: dict[str, Any] = json.loads(header.pop("__metadata__")["synchromesh"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProtocolError(f"the index: not a bundle's: {error!r}") from error
        self.entries: dict[str, Entry] = header

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
        if not self._data_start <= entry.begin <= entry.end <= len(self._memory):
            raise ProtocolError(f"the index: {name} lies outside")
        if entry.end - entry.begin != math.prod(shape) * DTYPES[dtype].bytes:
            raise ProtocolError(f"the index: {name} has another length than its shape")
        return entry

    def table(self, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """The same as an array."""
        begin = self.check(name, dtype, shape).begin
        return np.frombuffer(self._memory, DTYPES[dtype].numpy, math.prod(shape), begin).reshape(shape)
