"""What a lease lets one read: the weights of its task, where they lie.

Not here: taking and releasing it, which is `Attachment`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from .dlpack import Tensor
from .dtypes import DTYPES, Array, expand
from .errors import LeaseError
from .model import ABSENT, Model, base_view

if TYPE_CHECKING:
    from .attachment import Attachment, _Mapped


class Lease:
    """A pin on what a session served when the lease was taken: nothing of it changes while the lease lasts.

    Arrays and tensors that are views of the memory must not be used after it: they can be read, but what is there
    may be another task's. What `dense` and `matmul` give is the caller's own.
    """

    def __init__(self, attachment: Attachment, generation: int, task: str) -> None:
        self.generation = generation
        self.task = task
        self._attachment = attachment
        self._is_over = threading.Lock()

    @property
    def model(self) -> Model:
        """The model that is served. Raises `Closed` once the attachment is closed."""
        return self._attachment.model

    @property
    def is_current(self) -> bool:
        """Whether the session still serves this generation: one load from memory, and no system call."""
        self._now()
        return self._attachment.generation == self.generation

    def check(self) -> None:
        """Whether the daemon lives and the lease was not revoked; what is leased stays as it is either way.

        Two loads from memory, and no system call. Raises `Closed` or `Revoked`, or `LeaseError` if the lease is over.
        """
        self._now()
        self._attachment.check()

    def release(self) -> None:
        """Ends the lease. A second call does nothing."""
        if self._is_over.acquire(blocking=False):
            self._attachment._release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _now(self) -> _Mapped:
        """What is mapped, as long as the lease lasts."""
        mapped = self._attachment._now()
        if self._is_over.locked():
            raise LeaseError("the lease is over")
        return mapped

    def base(self, name: str) -> Array:
        """A base tensor in place, in its own shape, read-only. Raises `KeyError` if there is no such tensor.

        BF16 is seen as uint16, 8-bit floats as uint8; `model.base[name].dtype` tells what it is.
        """
        mapped = self._now()
        return base_view(mapped.pool.base, mapped.model.base[name])

    def blocks(self, name: str) -> Iterator[tuple[int, int, Array]]:
        """The blocks that the task has of a tensor, in place, row by row; everything else of it is zero.

        Gives (row, col, view): `view` is read-only, [rows, cols], and is the tensor's
        `[row : row + view.shape[0], col : col + view.shape[1]]`. Its type is seen as by `base`; `model.dtype` tells
        what it is. Raises `KeyError` if no such tensor is cut into blocks.
        """
        mapped = self._now()
        placed = mapped.model.placed(self.task, name)
        ys, xs = np.nonzero(placed != ABSENT)
        slots = mapped.table.slots_of(placed[ys, xs])
        return self._views(mapped.model.tensors[name].shape, ys, xs, slots)

    def _views(self, shape: tuple[int, int], ys: Array, xs: Array, slots: Array) -> Iterator[tuple[int, int, Array]]:
        (rows, cols), (height, width) = shape, self.model.block_shape
        for y, x, slot in zip((ys * height).tolist(), (xs * width).tolist(), slots.tolist()):
            yield y, x, self._now().pool.slots[slot, : rows - y, : cols - x]

    def dense(self, name: str, float32: bool = False) -> Array:
        """A tensor as the task has it, as a new array: [rows, cols], or a base tensor in its own shape.

        With `float32`, BF16 and F16 are made float32. Raises `KeyError` if there is no such tensor.
        """
        if name in self.model.base:
            dense, dtype = self.base(name).copy(), self.model.base[name].dtype
        else:
            dtype = self.model.dtype
            dense = np.zeros(self.model.tensors[name].shape, DTYPES[dtype].numpy)
            for row, col, view in self.blocks(name):
                dense[row : row + view.shape[0], col : col + view.shape[1]] = view
        return expand(dense, dtype) if float32 else dense

    def tensor(self, name: str) -> Tensor:
        """A base tensor in place, for libraries that take DLPack."""
        return Tensor(self.base(name), self.model.base[name].dtype)

    def block_tensors(self, name: str) -> Iterator[tuple[int, int, Tensor]]:
        """As `blocks`, for libraries that take DLPack."""
        return ((row, col, Tensor(view, self.model.dtype)) for row, col, view in self.blocks(name))

    def matmul(self, name: str, x: Array) -> Array:
        """`x` [..., cols] times the transpose of a tensor that is cut into blocks: [..., rows], a new array.

        Only the task's blocks are worked on. Blocks of BF16 and F16 count as float32, and so does `x` if it is
        float16; the product is float32, or float64 if `x` is. Raises `TypeError` for blocks of 8-bit floats, and for
        an `x` that is not of a floating type that numpy has: BF16 seen as uint16 would be taken for whole numbers.
        """
        if self.model.dtype.startswith("F8"):
            raise TypeError(f"numpy cannot compute with {self.model.dtype}")
        rows, cols = self.model.tensors[name].shape
        if x.shape[-1:] != (cols,):
            raise ValueError(f"{name} has {cols} columns, x is {x.shape}")
        dtype = self.model.dtype
        return matmul(((row, col, expand(view, dtype)) for row, col, view in self.blocks(name)), x, rows)


def matmul(blocks: Iterable[tuple[int, int, Array]], x: Array, rows: int) -> Array:
    """`x` [..., cols] times the transpose of blocks (row, col, [height, width]), which come row by row: [..., rows].

    It is computed, and comes out, in float32, or in the type of `x` if that is wider. Raises `TypeError` if `x` is
    not floating. One product for each row of blocks: that is much faster than one for each block.
    """
    if not np.issubdtype(x.dtype, np.floating):
        raise TypeError(f"x must be floating, not {x.dtype}; `x.astype(np.float32)` makes it so, if it holds numbers")
    x = x.astype(np.result_type(x.dtype, np.float32), copy=False)
    product = np.zeros((*x.shape[:-1], rows), x.dtype)
    for row, group in groupby(blocks, key=lambda block: block[0]):
        band = [(col, view) for _, col, view in group]
        weights = np.concatenate([view for _, view in band], axis=1)
        inputs = np.concatenate([x[..., col : col + view.shape[1]] for col, view in band], axis=-1)
        product[..., row : row + len(weights)] = inputs @ weights.T
    return product
