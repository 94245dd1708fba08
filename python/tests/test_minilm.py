"""A real model is computed in the daemon's memory, while its tasks are switched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from live import HANG_S, ROOT, run, serve, short_folder

from synchromesh import Control

# Other work may hold the machine up for longer than the daemon waits by itself.
PATIENCE = "limits: {lease_patience_ms: 60000}\n"
EXAMPLE = ROOT / "python/examples/minilm.py"
MODEL = ROOT / "target/minilm"


@pytest.mark.skipif(not MODEL.exists(), reason="the model is not here: run scripts/fetch-minilm.sh")
def test_embeddings_are_those_of_the_task_that_is_leased(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    recipe = (ROOT / "examples/minilm/recipe.yaml").read_text()
    recipe = recipe.replace("../../target/minilm.mesh", str(tmp_path / "minilm.mesh")).replace("../..", str(ROOT))
    (tmp_path / "recipe.yaml").write_text(recipe)
    # Not aligned, so that tasks differ more, and with room for two tasks: blocks come and go all the time.
    run("pack", tmp_path / "recipe.yaml")
    bundle = tmp_path / "minilm.mesh"
    with short_folder() as folder, serve(bundle, folder, PATIENCE, "24MiB") as daemon:
        command = [sys.executable, EXAMPLE, "--control", daemon.control, "--attach", daemon.socket, "--seconds", "8"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * HANG_S, check=False)
        with Control(daemon.control) as control:
            read = control.status().models[0].prefetch.read.blocks
    print(f"{done.stdout}{read} blocks read")
    assert done.returncode == 0, done.stderr
    assert "bit for bit right" in done.stdout
    assert read > 20_000, "most of them more than once"
