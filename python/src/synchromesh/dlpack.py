"""Tensors in the daemon's memory for other libraries, through DLPack, without a copy.

numpy makes the capsule and frees it: its code does so in C, where it may be called at any time, from any thread, while
an exception is on its way or the interpreter ends; a callback in Python may not. What numpy cannot say of a tensor
is written into the capsule here: types that it does not have, such as BF16.

A consumer that asks for DLPack 1.0 or later is told that the memory is read-only, if numpy is 2.1 or later. The older
capsule cannot say it. PyTorch, for one, lets such tensors be written: the kernel ends a process that does. The
daemon's memory cannot be changed that way.

Not here: devices other than the CPU.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .dtypes import DTYPES, Array

_CPU = (1, 0)


class _DLTensor(ctypes.Structure):
    """The head of DLPack's tensor: all up to the type."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


class _Versioned(ctypes.Structure):
    """The head of DLManagedTensorVersioned; DLManagedTensor begins with the tensor itself."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    )


class _Claim:
    """Memory as an array that says it can be written: numpy puts no other into an older capsule."""

    def __init__(self, array: Array) -> None:
        self.array = array  # Kept, so that the memory is.
        self.__array_interface__ = dict(array.__array_interface__, data=(array.ctypes.data, False))


# Not `ctypes.pythonapi`: what is declared there, is for everybody in the process.
_python = ctypes.PyDLL(None)
_is_capsule = _python.PyCapsule_IsValid
_is_capsule.argtypes, _is_capsule.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_int
_pointer = _python.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p


class Tensor:
    """A tensor in place. It has a meaning only while the lease lasts that it came from.

    `dtype` is the element type as safetensors names it; `array` the memory as numpy can see it, read-only.
    """

    def __init__(self, array: Array, dtype: str) -> None:
        self.array = array
        self.dtype = dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each axis."""
        return self.array.shape

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule of this memory. Raises `BufferError` where that would take a copy or another device."""
        if stream is not None or dl_device not in (None, _CPU) or copy:
            raise BufferError("this memory is the CPU's, and is handed out without a copy")
        if self.dtype not in DTYPES:
            raise BufferError(f"DLPack has no type for {self.dtype}")
        capsule = self._capsule(max_version is not None and max_version >= (1, 0))
        tensor = _tensor_in(capsule)
        tensor.code, tensor.bits = DTYPES[self.dtype].dlpack, 8 * DTYPES[self.dtype].bytes
        return capsule

    def _capsule(self, versioned: bool) -> Any:
        # Not every numpy exports every type that it has; the right one is written into the capsule afterwards.
        raw = self.array.view(f"u{self.array.itemsize}")
        if versioned:
            try:
                return raw.__dlpack__(max_version=(1, 0))
            except TypeError:
                pass  # numpy before 2.1 knows the older capsule only, which every consumer must take.
        return np.asarray(_Claim(raw)).__dlpack__()

    def torch(self) -> Any:
        """A PyTorch tensor of this memory. It must not be written: the kernel would end the process."""
        import torch

        return torch.from_dlpack(self)


def _tensor_in(capsule: object) -> _DLTensor:
    if _is_capsule(capsule, b"dltensor_versioned"):
        tensor: _DLTensor = _Versioned.from_address(_pointer(capsule, b"dltensor_versioned")).tensor
        return tensor
    return _DLTensor.from_address(_pointer(capsule, b"dltensor"))
