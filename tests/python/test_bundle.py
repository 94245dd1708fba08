"""Python's safetensors opens a bundle, and what is in it is what docs/format.md says."""

import json

import numpy as np
import pytest

from mesh import ABSENT, BASE_TAG, Mesh, crc64_nvme
from small_model import MODEL, PRUNED, SIDE, SmallModel, grid, tiles

TASKS = ("city", "fog", "park", "rain")


def test_the_check_value_of_the_checksum() -> None:
    assert crc64_nvme(b"123456789") == 0xAE8B14860A799888


def test_the_header_tells_names_shapes_and_types(mesh: Mesh, model: SmallModel) -> None:
    count = len(mesh.blocks)
    expected = {"blocks": ("F32", [count, SIDE, SIDE]), "index/checksum": ("U64", [count])}
    expected |= {"index/base": ("U64", [len(model.base)]), "index/digest": ("U8", [32])}
    expected |= {f"grid/{name}": ("U32", list(grid(shape))) for name, shape in PRUNED.items()}
    expected |= {f"own/rain/{name}": ("U32", list(grid(shape))) for name, shape in PRUNED.items()}
    expected |= {f"tasks/{task}": ("U8", [-(-count // 8)]) for task in TASKS}
    types = {"embed.weight": "F32", "norm.bias": "F16", "positions": "I64"}
    expected |= {f"base/{name}": (types[name], list(base.shape)) for name, base in model.base.items()}
    found = {
        name: (entry["dtype"], entry["shape"])
        for name, entry in mesh.header.items()
        if not name.startswith(("__metadata__", "pad/"))
    }
    assert found == expected


def test_the_library_and_the_header_agree_on_every_byte(mesh: Mesh) -> None:
    names = set(mesh.header) - {"__metadata__"}
    assert names == set(mesh.tensors)
    for name in names:
        assert mesh.tensors[name].tobytes() == mesh.stored(name), name


def test_data_begins_aligned_and_is_covered_exactly(mesh: Mesh) -> None:
    assert mesh.data_start % 4096 == 0
    assert mesh.offsets("blocks")[0] == mesh.data_start
    at = mesh.data_start
    for name in mesh.names(""):
        begin, end = mesh.offsets(name)
        assert begin == at, name
        assert begin % 4096 == 0 or not name.startswith("base/"), name
        assert not name.startswith("pad/") or not any(mesh.stored(name)), name
        at = end
    assert at == len(mesh.raw)


def test_block_i_lies_at_data_start_plus_i_blocks(mesh: Mesh) -> None:
    for index, block in enumerate(mesh.blocks):
        assert mesh.block_bytes(index) == block.tobytes(), index


def test_metadata_says_what_the_tensors_hold(mesh: Mesh) -> None:
    meta = mesh.meta
    assert (meta["format"], meta["model"]) == (1, MODEL)
    assert meta["block"] == {"rows": SIDE, "cols": SIDE, "dtype": "F32"}
    assert [(t["name"], tuple(t["shape"])) for t in meta["tensors"]] == list(PRUNED.items())
    assert [t["name"] for t in meta["tasks"]] == list(TASKS)
    assert [t["keep"] for t in meta["tasks"]] == [0.5, 0.25, None, None]
    for task in meta["tasks"]:
        assert task["blocks"] == mesh.task_set(task["name"]).sum()
        assert 0 < task["retained"] <= task["best"] <= 1
    assert {entry["role"] for entry in meta["provenance"]["inputs"]} >= {"weights"}
    assert "synchromesh" in json.dumps(meta["provenance"])


def test_every_block_and_base_tensor_has_its_checksum(mesh: Mesh) -> None:
    stored = mesh.tensors["index/checksum"]
    assert [mesh.checksum(i, mesh.block_bytes(i)) for i in range(len(mesh.blocks))] == stored.tolist()
    base = [mesh.checksum(BASE_TAG + i, mesh.stored(f"base/{name}")) for i, name in enumerate(mesh.names("base/"))]
    assert base == mesh.tensors["index/base"].tolist()


def test_the_digest_covers_header_and_index(mesh: Mesh) -> None:
    assert mesh.digest() == mesh.stored("index/digest")


def test_each_place_holds_a_block_of_the_weights(mesh: Mesh, model: SmallModel) -> None:
    used = set()
    for name in PRUNED:
        versions = [tiles(weights[name]) for weights in (model.dense, model.tasks["rain"])]
        for place, block in np.ndenumerate(mesh.tensors[f"grid/{name}"]):
            if block != ABSENT:
                used.add(int(block))
                found = mesh.block_bytes(block)
                assert found in [tile[place].tobytes() for tile in versions], (name, place)
        own = mesh.tensors[f"own/rain/{name}"]
        used.update(own[own != ABSENT].tolist())
    assert used == set(range(len(mesh.blocks))), "every block is at some place"


def test_own_blocks_are_those_that_were_fine_tuned(mesh: Mesh, model: SmallModel) -> None:
    for name in PRUNED:
        own = mesh.tensors[f"own/rain/{name}"]
        for place in np.argwhere(own != ABSENT):
            tile = tiles(model.tasks["rain"][name])[tuple(place)]
            assert mesh.block_bytes(own[tuple(place)]) == tile.tobytes()
            assert mesh.task_set("rain")[own[tuple(place)]]


def test_base_is_the_model_s(mesh: Mesh, model: SmallModel) -> None:
    for name, tensor in model.base.items():
        found = mesh.tensors[f"base/{name}"]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert found.tobytes() == tensor.tobytes()


@pytest.mark.parametrize("task", TASKS)
def test_set_and_grids_give_each_task_its_weights(mesh: Mesh, model: SmallModel, task: str) -> None:
    for name, shape in PRUNED.items():
        assert mesh.dense(task, name, shape).tobytes() == model.tasks[task][name].tobytes(), name


def test_no_block_is_zero_and_none_is_stored_twice_for_the_same_tasks(mesh: Mesh) -> None:
    sets = np.stack([mesh.task_set(task) for task in TASKS])
    contents = [(block.tobytes(), sets[:, index].tobytes()) for index, block in enumerate(mesh.blocks)]
    assert all(any(content) for content, _ in contents)
    assert len(set(contents)) == len(contents)
