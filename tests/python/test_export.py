"""What another process reads out of the daemon's memory is what numpy expects."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from control import TaskService
from daemon import Daemon, run
from small_model import SmallModel


@pytest.mark.parametrize("task", ["city", "fog", "park", "rain"])
def test_an_export_has_the_task_s_weights(
    served: Daemon, service: TaskService, model: SmallModel, tmp_path: Path, task: str
) -> None:
    generation = service.switch(task).generation
    out = tmp_path / "out.safetensors"
    exported = run("export", "--out", out, "--attach", served.attach)
    assert (exported["task"], exported["generation"]) == (task, generation)
    found = load_file(out)
    assert set(found) == set(model.dense)
    for name, expected in model.tasks[task].items():
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape), name
        assert found[name].tobytes() == expected.tobytes(), name


def test_the_program_finds_every_checksum_right(bundle: Path, model: SmallModel) -> None:
    verified = run("verify", bundle)
    assert verified["base_tensors"] == len(model.base)
    assert (verified["bad_blocks"], verified["bad_base_tensors"]) == ([], [])
