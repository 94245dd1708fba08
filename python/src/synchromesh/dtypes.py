"""Element types by the names that safetensors has for them.

Not here: arithmetic. numpy has no bfloat16 and no 8-bit floats, so those are seen as unsigned integers of their size;
`expand` makes float32 of what is 16 bits wide.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class DType(NamedTuple):
    """A type: numpy's to hold its elements, and DLPack's code for it."""

    numpy: str
    dlpack: int

    @property
    def bytes(self) -> int:
        """Bytes of an element."""
        return np.dtype(self.numpy).itemsize


_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL, _E4M3FN, _E5M2 = 0, 1, 2, 4, 5, 6, 10, 12

DTYPES = {
    "BOOL": DType("?", _BOOL),
    "U8": DType("u1", _UINT),
    "I8": DType("i1", _INT),
    "F8_E4M3": DType("u1", _E4M3FN),
    "F8_E5M2": DType("u1", _E5M2),
    "U16": DType("u2", _UINT),
    "I16": DType("i2", _INT),
    "F16": DType("f2", _FLOAT),
    "BF16": DType("u2", _BFLOAT),
    "U32": DType("u4", _UINT),
    "I32": DType("i4", _INT),
    "F32": DType("f4", _FLOAT),
    "U64": DType("u8", _UINT),
    "I64": DType("i8", _INT),
    "F64": DType("f8", _FLOAT),
    "C64": DType("c8", _COMPLEX),
}


def expand(array: Array, dtype: str) -> Array:
    """BF16 and F16 as float32, exactly; any other type as it is."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if dtype == "F16" else array
