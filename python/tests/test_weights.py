"""What a lease shows is what each task must have, for tasks of all four kinds, without a copy."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake import image
from inputs import CUT, TASKS, Inputs, floats
from live import HANG_S, Daemon, child

from synchromesh import ABSENT, Attachment, Control, Lease, LeaseError, Model


@pytest.fixture(scope="module")
def session(served: Daemon) -> Iterator[Attachment]:
    with served.attach() as session:
        yield session


@pytest.fixture(params=TASKS)
def lease(request: pytest.FixtureRequest, served: Daemon, session: Attachment) -> Iterator[Lease]:
    """A lease on each task."""
    with Control(served.control, HANG_S) as control:
        generation = control.switch_task(request.param).generation
    with session.lease(generation) as lease:
        yield lease


def test_the_model_is_the_bundle_s(session: Attachment, model: Inputs) -> None:
    assert (session.model.name, session.model.dtype, session.model.tasks) == (model.name, model.dtype, TASKS)
    assert {name: tensor.shape for name, tensor in session.model.tensors.items()} == CUT
    assert session.model.base.keys() == model.shared.keys()
    assert session.model.base["embed.weight"].dtype == model.dtype


def test_base_tensors_are_as_they_were(lease: Lease, model: Inputs) -> None:
    for name, expected in model.shared.items():
        found = lease.base(name)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(found, expected)
        assert not found.flags.writeable
        assert np.shares_memory(found, lease.base(name)), "no copy is made"


def test_blocks_are_the_task_s(lease: Lease, model: Inputs) -> None:
    for name, expected in model.tasks[lease.task].items():
        rest, last = expected.copy(), (-1, -1)
        for row, col, view in lease.blocks(name):
            place = slice(row, row + view.shape[0]), slice(col, col + view.shape[1])
            assert np.array_equal(view, expected[place])
            assert not view.flags.writeable
            assert (row, col) > last, "row by row"
            rest[place], last = 0, (row, col)
        assert not rest.any(), "nothing is left out"


def test_blocks_lie_in_the_mapping(lease: Lease) -> None:
    slots = [view for name in CUT for _, _, view in lease.blocks(name)]
    again = [view for name in CUT for _, _, view in lease.blocks(name)]
    assert [a.ctypes.data for a in slots] == [a.ctypes.data for a in again]
    mapped = Path("/proc/self/maps").read_text().splitlines()
    pools = [line.split("-", 1) for line in mapped if "memfd:pool" in line]
    ranges = [(int(start, 16), int(rest.split(" ", 1)[0], 16)) for start, rest in pools]
    assert all(any(start <= view.ctypes.data < end for start, end in ranges) for view in slots)
    assert all(" r--s " in line for line in mapped if "memfd:pool" in line or "memfd:table" in line)


def test_dense_tensors_are_the_task_s(lease: Lease, model: Inputs) -> None:
    for name, expected in model.tasks[lease.task].items():
        assert lease.dense(name).tobytes() == expected.tobytes()
        grown = lease.dense(name, float32=True)
        assert grown.dtype == np.float32
        assert grown.tobytes() == floats(expected).tobytes()
    assert lease.dense("norm.bias").tobytes() == model.shared["norm.bias"].tobytes()
    assert lease.dense("norm.bias", float32=True).dtype == np.float32
    assert lease.dense("positions", float32=True).dtype == np.int64


def test_a_product_over_blocks_is_the_dense_one(lease: Lease, model: Inputs) -> None:
    random = np.random.default_rng(1)
    for name, weights in model.tasks[lease.task].items():
        x = random.standard_normal((2, 5, weights.shape[1])).astype(np.float32)
        assert np.allclose(lease.matmul(name, x), x @ floats(weights).T, atol=1e-4)
        with pytest.raises(ValueError, match="columns"):
            lease.matmul(name, x[..., :-1])


@pytest.mark.parametrize("wide", [np.float16, np.float32, np.float64, np.dtype(">f4")])
def test_a_product_is_as_wide_as_x_and_never_less_than_float32(lease: Lease, model: Inputs, wide: type) -> None:
    weights = floats(model.tasks[lease.task]["layer.0.weight"]).astype(np.float64)
    x = np.random.default_rng(1).standard_normal((5, weights.shape[1])).astype(wide)
    found = lease.matmul("layer.0.weight", x)
    assert found.dtype == np.result_type(wide, np.float32)
    rounding = 1e-12 if found.dtype == np.float64 else 1e-4
    assert np.abs(found - x.astype(np.float64) @ weights.T).max() < rounding


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint16, np.bool_, np.complex64])
def test_what_is_not_floating_is_not_multiplied(lease: Lease, kind: type) -> None:
    with pytest.raises(TypeError, match=np.dtype(kind).name):
        lease.matmul("layer.0.weight", np.ones((2, 128), kind))


def test_the_grid_says_what_has_blocks(lease: Lease, model: Inputs, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(image(model.bundle.read_bytes()))
    with open(tmp_path / "image", "rb") as file:
        read = Model(file.fileno())
    height, width = read.block_shape
    for name in CUT:
        placed = read.placed(lease.task, name)
        assert np.array_equal(placed, lease.model.placed(lease.task, name)), "the index is the file's"
        found = [(row // height, col // width) for row, col, _ in lease.blocks(name)]
        assert found == [tuple(place) for place in np.argwhere(placed != ABSENT).tolist()]


def test_who_writes_to_the_memory_is_ended_and_changes_nothing(served: Daemon, lease: Lease, model: Inputs) -> None:
    writer = child("write", served.socket)
    out, _ = writer.communicate(timeout=HANG_S)
    assert (out, writer.returncode) == ("", -signal.SIGSEGV)
    assert lease.dense("layer.0.weight").tobytes() == model.tasks[lease.task]["layer.0.weight"].tobytes()


def test_an_unknown_tensor_is_a_key_error(lease: Lease) -> None:
    for call in (lease.base, lease.blocks, lease.dense, lease.tensor):
        with pytest.raises(KeyError):
            call("layer.9.weight")


def test_a_lease_that_is_over_shows_nothing(served: Daemon) -> None:
    with served.attach() as session:
        with session.lease() as lease:
            blocks = lease.blocks("layer.1.weight")
            next(blocks)
        with pytest.raises(LeaseError):
            next(blocks)
        with pytest.raises(LeaseError):
            lease.base("norm.bias")
        lease.release()
