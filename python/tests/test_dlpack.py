"""Tensors that other libraries see in place: the capsule byte by byte, and what numpy and PyTorch make of it."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from inputs import Inputs
from live import HANG_S, Daemon

from synchromesh import Attachment, Control, Lease, Tensor

CPU, READ_ONLY = (1, 0), 1
TYPES = {"F32": (2, 32), "BF16": (4, 16)}
pointer = ctypes.PyDLL(None).PyCapsule_GetPointer
pointer.argtypes, pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
knows_versions = tuple(map(int, np.__version__.split(".")[:2])) >= (2, 1)


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


@pytest.fixture
def session(served: Daemon) -> Iterator[Attachment]:
    with served.attach() as session:
        yield session


@pytest.fixture
def lease(served: Daemon, session: Attachment) -> Iterator[Lease]:
    with Control(served.control, HANG_S) as control:
        generation = control.switch_task("park").generation
    with session.lease(generation) as lease:
        yield lease


def tensors(lease: Lease) -> list[Tensor]:
    """A base tensor, and blocks: whole ones, and such as reach over the edges."""
    blocks = [tensor for name in lease.model.tensors for _, _, tensor in lease.block_tensors(name)]
    assert len({block.shape for block in blocks}) > 2
    return [lease.tensor("embed.weight"), *blocks]


def check(found: DLTensor, tensor: Tensor, dtype: str) -> None:
    """Compares what a capsule says with the tensor."""
    assert found.data + found.byte_offset == tensor.array.ctypes.data, "no copy is made"
    assert (found.device_type, found.device_id) == CPU == tensor.__dlpack_device__()
    assert (found.code, found.bits, found.lanes) == (*TYPES[dtype], 1)
    assert tuple(found.shape[: found.ndim]) == tensor.shape
    strides = tuple(found.strides[: found.ndim]) if found.strides else None
    if strides is None:
        assert tensor.array.flags.c_contiguous, "it need not be said then"
    else:
        assert tuple(s * tensor.array.itemsize for s in strides) == tensor.array.strides


def test_the_older_capsule_says_what_and_where(lease: Lease, model: Inputs) -> None:
    for tensor in tensors(lease):
        for capsule in (tensor.__dlpack__(), tensor.__dlpack__(max_version=(0, 8))):
            check(DLTensor.from_address(pointer(capsule, b"dltensor")), tensor, model.dtype)


@pytest.mark.skipif(not knows_versions, reason="numpy before 2.1 makes the older capsule only")
def test_the_versioned_capsule_says_that_it_is_read_only(lease: Lease, model: Inputs) -> None:
    for tensor in tensors(lease):
        capsule = tensor.__dlpack__(max_version=(1, 1), dl_device=CPU, copy=False)
        found = Versioned.from_address(pointer(capsule, b"dltensor_versioned"))
        assert (found.major, found.flags & READ_ONLY) == (1, READ_ONLY)
        check(found.tensor, tensor, model.dtype)


def test_other_types_have_their_codes(lease: Lease) -> None:
    for name, code, bits in (("norm.bias", 2, 16), ("positions", 0, 64), ("used", 6, 8)):
        found = DLTensor.from_address(pointer(lease.tensor(name).__dlpack__(), b"dltensor"))
        assert (found.code, found.bits) == (code, bits)


@pytest.mark.parametrize("wish", [{"copy": True}, {"dl_device": (2, 0)}, {"stream": 1}])
def test_what_cannot_be_is_a_buffer_error(lease: Lease, wish: dict[str, Any]) -> None:
    with pytest.raises(BufferError):
        lease.tensor("embed.weight").__dlpack__(**wish)


def test_memory_lives_as_long_as_a_capsule_and_no_longer(lease: Lease) -> None:
    array = lease.base("embed.weight")
    before = sys.getrefcount(array)
    for version in (None, (1, 0)):
        capsule = Tensor(array, lease.model.base["embed.weight"].dtype).__dlpack__(max_version=version)
        del capsule
        gc.collect()
        assert sys.getrefcount(array) == before


def test_numpy_takes_what_it_has_a_type_for(lease: Lease, model: Inputs) -> None:
    tensor = lease.tensor("embed.weight")
    if model.dtype == "BF16":
        with pytest.raises((RuntimeError, BufferError)):
            np.from_dlpack(tensor)
        return
    taken = np.from_dlpack(tensor)
    assert np.array_equal(taken, model.shared["embed.weight"])
    assert taken.ctypes.data == tensor.array.ctypes.data


def test_torch_sees_the_memory_in_place(lease: Lease, model: Inputs) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for tensor in tensors(lease):
        found = tensor.torch()
        assert found.dtype == {"F32": torch.float32, "BF16": torch.bfloat16}[model.dtype]
        assert found.data_ptr() == tensor.array.ctypes.data
        assert tuple(found.shape) == tensor.shape
        bits = found.view(torch.int16).numpy() if model.dtype == "BF16" else found.numpy()
        assert bits.tobytes() == tensor.array.tobytes()


def test_a_torch_tensor_outlives_all_else(lease: Lease, session: Attachment) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    found = lease.tensor("embed.weight").torch()
    expected = found.clone()
    lease.release()
    session.close()
    gc.collect()
    assert torch.equal(found, expected)
