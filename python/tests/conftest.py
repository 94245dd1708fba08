"""Bundles and daemons that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fake
import inputs
import live
import pytest

from synchromesh import Control


@pytest.fixture(scope="session", params=["F32", "BF16"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> inputs.Inputs:
    """A model, packed: with each task's own best mask, not one that alignment chose."""
    made = inputs.write(tmp_path_factory.mktemp("model"), request.param)
    live.run("pack", made.recipe)
    return made


@pytest.fixture(scope="session")
def any_model(tmp_path_factory: pytest.TempPathFactory) -> inputs.Inputs:
    """A model, where its element type does not matter."""
    made = inputs.write(tmp_path_factory.mktemp("model"), "F32")
    live.run("pack", made.recipe)
    return made


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a real model, not aligned, so that its tasks differ more."""
    if not (live.ROOT / "target/minilm").exists():
        pytest.skip("the model is not here: run scripts/fetch-minilm.sh")
    folder = tmp_path_factory.mktemp("minilm")
    recipe = (live.ROOT / "examples/minilm/recipe.yaml").read_text()
    recipe = recipe.replace("../../target/minilm.mesh", str(folder / "minilm.mesh")).replace("../..", str(live.ROOT))
    (folder / "recipe.yaml").write_text(recipe)
    live.run("pack", folder / "recipe.yaml")
    return folder / "minilm.mesh"


@pytest.fixture(scope="session")
def served(model: inputs.Inputs) -> Iterator[live.Daemon]:
    """A daemon that serves the model."""
    with live.short_folder() as folder, live.serve(model.bundle, folder) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def daemon(any_model: inputs.Inputs) -> Iterator[live.Daemon]:
    """A daemon, where the model's element type does not matter."""
    with live.short_folder() as folder, live.serve(any_model.bundle, folder) as running:
        yield running


@pytest.fixture
def control(daemon: live.Daemon) -> Iterator[Control]:
    """The control plane of `daemon`."""
    with Control(daemon.control, live.HANG_S) as control:
        yield control


@pytest.fixture
def faked(any_model: inputs.Inputs) -> Iterator[tuple[fake.Fake, Path]]:
    """A fake daemon and its socket."""
    with live.short_folder() as folder, fake.listening(any_model.bundle, folder) as made:
        yield made
