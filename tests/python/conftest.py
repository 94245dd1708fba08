"""One bundle and one daemon for all tests of a run."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest

import daemon
import small_model
from control import TaskService
from mesh import Mesh


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that goes with the run."""
    with TemporaryDirectory(prefix="synchromesh-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def model(folder: Path) -> small_model.SmallModel:
    """The model and what is expected of it."""
    return small_model.write(folder)


@pytest.fixture(scope="session")
def bundle(model: small_model.SmallModel) -> Path:
    """The model's bundle, made by the program."""
    # What is expected is each task's own best mask: alignment may trade some of it for a smaller switch.
    compiled = daemon.run("pack", model.recipe)
    assert compiled["model"] == small_model.MODEL
    return model.recipe.with_name("peers.mesh")


@pytest.fixture(scope="session")
def mesh(bundle: Path) -> Mesh:
    """The bundle as read by the reader of these tests."""
    return Mesh(bundle)


@pytest.fixture(scope="session")
def served(bundle: Path) -> Iterator[daemon.Daemon]:
    """A daemon that serves the bundle."""
    with daemon.serve(bundle) as running:
        yield running


@pytest.fixture
def channel(served: daemon.Daemon) -> Iterator[grpc.Channel]:
    """A connection to the daemon."""
    with served.connect() as channel:
        yield channel


@pytest.fixture
def service(channel: grpc.Channel) -> TaskService:
    """The daemon's calls, known from reflection alone."""
    return TaskService(channel)
