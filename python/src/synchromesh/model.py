"""What a bundle holds: its tensors, its tasks, and which block each task has at each place.

Grids and sets are views onto the mapped index, so that a model takes next to no memory of its own. docs/format.md has
the rules; the daemon has checked them. Checked again is what memory is read by: shapes and offsets here, block numbers
where a block is looked up.

Not here: weights. Those are in the pool, and a `Lease` gives views of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._header import Image
from .dtypes import DTYPES, Array
from .errors import ProtocolError

ABSENT = 0xFFFFFFFF
_MAX_TASKS = 64
_MAX_BLOCKS = 1 << 26
_MAX_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class BaseTensor:
    """A tensor that every task has as it is. `begin` is its offset in the pool, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int


@dataclass(frozen=True)
class BlockTensor:
    """A tensor that is cut into blocks."""

    name: str
    shape: tuple[int, int]


class Model:
    """A bundle's header and index. `block_shape` is in elements, `dtype` as safetensors names it."""

    def __init__(self, descriptor: int) -> None:
        """Reads the image of header and index that the daemon hands out. The descriptor is not needed afterwards."""
        self._image = Image(descriptor)
        try:
            self._read_meta(self._image)
            self._check_tables(self._image)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(f"the index: its metadata is not a bundle's: {error!r}") from error
        self.base: Mapping[str, BaseTensor] = _base(self._image)
        # The base region ends with its last tensor.
        self.base_bytes = max((tensor.begin + tensor.nbytes for tensor in self.base.values()), default=0)

    def _read_meta(self, image: Image) -> None:
        meta = image.meta
        if meta["format"] != 1:
            raise ProtocolError(f"the index: of format {meta['format']}; this client reads format 1")
        self.name = str(meta["model"])
        self.bundle_id = bytes.fromhex(meta["bundle_id"])
        self.tasks = tuple(str(task["name"]) for task in meta["tasks"])
        self.dtype = str(meta["block"]["dtype"])
        self.block_shape = (int(meta["block"]["rows"]), int(meta["block"]["cols"]))
        blocks = image.entries["blocks"]
        self.blocks = blocks.shape[0]
        self.block_bytes = self.block_shape[0] * self.block_shape[1] * DTYPES[self.dtype].bytes
        bounds = (len(self.tasks), _MAX_TASKS), (self.blocks, _MAX_BLOCKS), (self.block_bytes, _MAX_BLOCK_BYTES)
        if not all(0 < number <= most for number, most in bounds) or blocks.shape[1:] != self.block_shape:
            raise ProtocolError("the index: numbers of tasks or blocks, or the shape of a block, cannot be")

    def _check_tables(self, image: Image) -> None:
        tensors = (BlockTensor(str(tensor["name"]), tuple(tensor["shape"])) for tensor in image.meta["tensors"])
        self.tensors: Mapping[str, BlockTensor] = {tensor.name: tensor for tensor in tensors}
        for task in self.tasks:
            image.check(f"tasks/{task}", "U8", self._set_shape)
        for name in self.tensors:
            owners = (f"own/{task}/{name}" for task in self.tasks)
            for grid in (f"grid/{name}", *(own for own in owners if own in image.entries)):
                image.check(grid, "U32", self.grid_shape(name))

    @property
    def _set_shape(self) -> tuple[int]:
        return (-(-self.blocks // 8),)

    def grid_shape(self, name: str) -> tuple[int, int]:
        """How many blocks a tensor has along its rows and columns."""
        (rows, cols), (height, width) = self.tensors[name].shape, self.block_shape
        if min(rows, cols) < 1:
            raise ProtocolError(f"the index: {name} is empty")
        return -(-rows // height), -(-cols // width)

    def task_set(self, task: str) -> NDArray[np.uint8]:
        """The task's set, [⌈blocks/8⌉]: bit `i % 8` of byte `i // 8` says whether it has block `i`."""
        return self._image.table(f"tasks/{task}", "U8", self._set_shape)

    def grid(self, name: str) -> NDArray[np.uint32]:
        """The block at each place of a tensor, or `ABSENT`; a task has it if it is in its set."""
        return self._image.table(f"grid/{name}", "U32", self.grid_shape(name))

    def own_grid(self, task: str, name: str) -> NDArray[np.uint32] | None:
        """A task's own blocks of a tensor, `ABSENT` elsewhere; `None` if it has none there."""
        entry, shape = f"own/{task}/{name}", self.grid_shape(name)
        return self._image.table(entry, "U32", shape) if entry in self._image.entries else None

    def placed(self, task: str, name: str) -> NDArray[np.uint32]:
        """The block that a task has at each place of a tensor's grid, or `ABSENT`. A new array."""
        grid, own = self.grid(name), self.own_grid(task, name)
        # What is no block of the bundle, `ABSENT` first of all, asks for a bit that is there, and is absent.
        index = np.where(grid < self.blocks, grid, 0)
        kept = self.task_set(task)[index >> 3] >> (index & 7).astype(np.uint8) & 1
        placed: NDArray[np.uint32] = np.where((kept == 1) & (grid < self.blocks), grid, np.uint32(ABSENT))
        return placed if own is None else np.where(own != ABSENT, own, placed)


def _base(image: Image) -> dict[str, BaseTensor]:
    found = sorted(
        ((entry, name[len("base/") :]) for name, entry in image.entries.items() if name.startswith("base/")),
        key=lambda pair: pair[0].begin,
    )
    start = found[0][0].begin if found else 0
    return {name: BaseTensor(name, e.dtype, e.shape, e.begin - start, e.end - e.begin) for e, name in found}


def base_view(region: NDArray[np.uint8], tensor: BaseTensor) -> Array:
    """A base tensor as it lies in the base region; one of a type that numpy cannot hold as its bytes."""
    data = region[tensor.begin : tensor.begin + tensor.nbytes]
    if len(data) != tensor.nbytes:
        raise ProtocolError(f"the index: base tensor {tensor.name} lies outside of the base")
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        return data
    view: NDArray[Any] = data.view(dtype.numpy)
    if view.size != np.prod(tensor.shape, dtype=object):
        raise ProtocolError(f"the index: base tensor {tensor.name} has another length than its shape")
    return view.reshape(tensor.shape)
