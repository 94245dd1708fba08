"""scripts/calibrate.py: sums against their definition, files that the program takes, and a small PyTorch model."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import daemon
from mesh import Mesh

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import calibrate
from calibrate import Recorder

NAME = "layer.weight"


@pytest.fixture
def random() -> np.random.Generator:
    """The same numbers in each test."""
    return np.random.default_rng(3)


def test_sums_are_those_of_their_definition(random: np.random.Generator) -> None:
    """Over batches of several shapes, and of more tokens than a block holds."""
    x = random.normal(size=(calibrate.BLOCK_TOKENS + 1000, 6)).astype(np.float32)
    dense = x + random.normal(size=x.shape).astype(np.float32)
    recorder = Recorder()
    recorder.observe(NAME, x[:30].reshape(2, 5, 3, 6), dense[:30].reshape(2, 5, 3, 6))
    recorder.observe(NAME, x[30:], dense[30:])
    exact, exact_dense = x.astype(np.float64), dense.astype(np.float64)
    assert recorder.tokens == {NAME: len(x)}
    np.testing.assert_allclose(recorder.norms()[NAME], np.sqrt((exact**2).mean(axis=0)), rtol=1e-6)
    np.testing.assert_allclose(recorder.moments()[NAME], exact.T @ exact / len(x), atol=1e-5)
    np.testing.assert_allclose(recorder.cross()[NAME], exact_dense.T @ exact / len(x), atol=1e-5)


def test_each_file_is_written_whole(random: np.random.Generator, tmp_path: Path) -> None:
    """One tensor a weight, float32, and nothing beside them."""
    recorder = Recorder()
    recorder.observe(NAME, random.normal(size=(9, 4)), random.normal(size=(9, 4)))
    files = {kind: tmp_path / f"{kind}.safetensors" for kind in ("norms", "moments", "cross")}
    recorder.save(**files)
    assert sorted(tmp_path.iterdir()) == sorted(files.values())
    for kind, path in files.items():
        (tensor,) = load_file(path).values()
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, getattr(recorder, kind)()[NAME])


def test_tokens_that_are_left_out_do_not_count(random: np.random.Generator) -> None:
    """Padding, as an attention mask has it."""
    x = random.normal(size=(2, 3, 4))
    padded, plain = Recorder(), Recorder()
    with padded.only([[1, 1, 0], [1, 0, 0]]):
        padded.observe(NAME, x)
    plain.observe(NAME, np.stack([x[0, 0], x[0, 1], x[1, 0]]))
    np.testing.assert_array_equal(padded.moments()[NAME], plain.moments()[NAME])
    with padded.only(np.ones((1, 2), bool)), pytest.raises(ValueError, match="chose among"):
        padded.observe(NAME, x)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([np.ones((3, 4)), np.ones((3, 5))], "5 input channels after 4"),
        ([np.full((1, 2), np.nan)], "not finite"),
        ([np.ones((0, 2))], "no token"),
    ],
)
def test_inputs_that_cannot_be_are_refused(inputs: list[np.ndarray], message: str) -> None:
    """Before they spoil a sum, and by the weight's name."""
    recorder = Recorder()
    with pytest.raises(ValueError, match=f"{NAME}: .*{message}"):
        for x in inputs:
            recorder.observe(NAME, x)


def test_a_dense_input_comes_always_or_never() -> None:
    """Else cross moments would be means over other tokens than the moments."""
    recorder = Recorder()
    recorder.observe(NAME, np.ones((2, 3)))
    with pytest.raises(ValueError, match="always or never"):
        recorder.observe(NAME, np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="no cross to write"):
        recorder.save(cross="never-written.safetensors")
    with pytest.raises(ValueError, match="without second moments"):
        Recorder(second=False).observe(NAME, np.ones((2, 3)), np.ones((2, 3)))


def test_masks_are_read_by_task_and_cut_at_the_edges(tmp_path: Path) -> None:
    """As `align --masks-out` names them."""
    mask = np.array([[1, 0], [0, 1]], np.uint8)
    path, other = tmp_path / "masks.safetensors", tmp_path / "other.safetensors"
    masks = {f"city/{NAME}": mask, f"fog/{NAME}": 1 - mask}
    save_file(masks, path, {"block": '{"rows": 2, "cols": 3}'})
    read, block = calibrate.load_masks(path, "city")
    assert (list(read), block) == ([NAME], (2, 3))
    kept = calibrate.expand(read[NAME], block, (3, 4))
    np.testing.assert_array_equal(kept, [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]])
    with pytest.raises(ValueError, match="name one of city, fog"):
        calibrate.load_masks(path, "rain")
    with pytest.raises(ValueError, match=r"need \(1, 2\)"):
        calibrate.expand(read[NAME], (4, 3), (3, 4))
    save_file(masks, other)
    with pytest.raises(ValueError, match="what a block is"):
        calibrate.load_masks(other, "city")


def least_error(weights: np.ndarray, x: np.ndarray, kept: np.ndarray, pull: float) -> float:
    """What the best values of the kept columns get wrong, pull included."""
    second = x.T @ x / len(x)
    step = np.zeros_like(weights)
    wrong = weights[:, ~kept] @ second[~kept][:, kept]
    step[:, kept] = np.linalg.solve(second[kept][:, kept] + pull * np.eye(kept.sum()), wrong.T).T
    step[:, ~kept] = -weights[:, ~kept]
    return float(((x @ step.T) ** 2).sum() / len(x) + pull * (step**2).sum())


def test_costs_of_elimination_are_those_of_least_squares(random: np.random.Generator) -> None:
    """Block by block, for a row of blocks, against solving anew for every choice."""
    # Channels that are alike, so that others can stand in; the last block is cut short.
    x = random.normal(size=(200, 10)) @ random.normal(size=(10, 10))
    weight = random.normal(size=(3, 10))
    costs = calibrate.elimination_costs(weight, x.T @ x / len(x), (4, 3), damping=0.05)
    assert costs.shape == (1, 4)
    pull = 0.05 * np.square(x).sum() / len(x) / 10
    block_of = np.arange(10) // 3
    left, error, dearest = {0, 1, 2, 3}, 0.0, 0.0
    while left:
        errors = {block: least_error(weight, x, np.isin(block_of, list(left - {block})), pull) for block in left}
        gone = min(errors, key=errors.__getitem__)
        dearest = max(dearest, errors[gone] - error)
        assert costs[0, gone] == pytest.approx(dearest)
        error = errors[gone]
        left.remove(gone)


def test_spread_costs_add_up_to_those_of_blocks(random: np.random.Generator) -> None:
    """As a recipe's `importance` is summed, blocks at the edges too."""
    costs = random.random((2, 3))
    importance = calibrate.spread(costs, (4, 3), (6, 8))
    assert importance.shape == (6, 8)
    sums = np.add.reduceat(np.add.reduceat(importance, [0, 4], axis=0), [0, 3, 6], axis=1)
    np.testing.assert_allclose(sums, costs, rtol=1e-6)


def test_no_damping_is_refused_and_silence_costs_nothing() -> None:
    """Where nothing comes in, every block can go."""
    with pytest.raises(ValueError, match="above 0"):
        calibrate.elimination_costs(np.ones((2, 2)), np.eye(2), (1, 1), damping=0)
    assert not calibrate.elimination_costs(np.ones((2, 2)), np.zeros((2, 2)), (1, 1)).any()


def test_the_program_takes_what_is_written_and_gives_masks_back(random: np.random.Generator, tmp_path: Path) -> None:
    """Norms, moments and cross moments of two tasks; solved values answer better than the dense ones do."""
    weight = random.normal(size=(64, 96)).astype(np.float32)
    save_file({NAME: weight}, tmp_path / "weights.safetensors")
    # Channels that are alike; the pruned network's inputs are a little off.
    dense = {task: (random.normal(size=(300, 20)) @ random.normal(size=(20, 96))) for task in ("city", "fog")}
    pruned = {task: x + 0.1 * random.normal(size=x.shape) for task, x in dense.items()}
    tasks = []
    for task, x in dense.items():
        recorder = Recorder()
        recorder.observe(NAME, pruned[task], x)
        files = {kind: f"{task}-{kind}.safetensors" for kind in ("norms", "moments", "cross")}
        recorder.save(**{kind: tmp_path / name for kind, name in files.items()})
        tasks.append({"name": task, "keep": 0.5} | files)
    recipe = {
        "model": "small",
        "output": "small.mesh",
        "weights": "weights.safetensors",
        "block": {"rows": 32, "cols": 32},
        "prune": {"include": ["*"]},
        "reconstruct": {"damping": 0.01},
        "tasks": tasks,
    }
    # JSON is YAML.
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    daemon.run("align", tmp_path / "recipe.yaml", "--masks-out", tmp_path / "masks.safetensors")
    daemon.run("compile", tmp_path / "recipe.yaml")
    mesh = Mesh(tmp_path / "small.mesh")
    for task, x in dense.items():
        masks, block = calibrate.load_masks(tmp_path / "masks.safetensors", task)
        kept = calibrate.expand(masks[NAME], block, weight.shape)
        solved = mesh.dense(task, NAME, weight.shape)
        assert not solved[~kept].any()
        wanted = x @ weight.T
        before, after = (((pruned[task] @ w.T - wanted) ** 2).sum() for w in (weight * kept, solved))
        assert after < before / 2


@pytest.fixture
def torch() -> Any:
    """PyTorch itself, or a skipped test."""
    return pytest.importorskip("torch", reason="PyTorch is not installed: the hooks on its models are not tested")


def small_model(torch: Any) -> Any:
    """Two Linears, and something between them that is none."""
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.GELU(), torch.nn.Linear(12, 4))


def test_hooks_see_what_each_linear_takes(torch: Any) -> None:
    """By the names of a checkpoint; not after they are removed."""
    model, x = small_model(torch), torch.randn(5, 7, 8)
    recorder = Recorder()
    handles = calibrate.attach(model, recorder)
    model(x)
    for handle in handles:
        handle.remove()
    model(x)
    assert set(recorder.tokens) == {"0.weight", "2.weight"} <= set(model.state_dict())
    assert recorder.tokens["0.weight"] == 35
    inner = torch.nn.functional.gelu(model[0](x)).detach().numpy().reshape(-1, 12)
    np.testing.assert_allclose(recorder.moments()["2.weight"], inner.T @ inner / 35, atol=1e-5)


def test_hooks_can_be_held_to_some_weights(torch: Any) -> None:
    """A name that is no Linear's weight is an error."""
    model, recorder = small_model(torch), Recorder()
    calibrate.attach(model, recorder, ["2.weight"])
    with recorder.only(torch.tensor([1, 0, 1])):
        model(torch.randn(3, 8))
    model[2](input=torch.randn(4, 12))
    assert recorder.tokens == {"2.weight": 6}
    with pytest.raises(ValueError, match=r"1\.weight: not the weight"):
        calibrate.attach(model, recorder, ["1.weight"])


def test_fine_tuning_leaves_masked_blocks_zero(torch: Any, tmp_path: Path) -> None:
    """In a checkpoint as a recipe takes it, and whatever the optimizer does."""
    model = small_model(torch)
    x, wanted = torch.randn(64, 8), torch.randn(64, 4)
    masks = {"0.weight": np.array([[1, 0], [0, 1], [1, 1]]), "2.weight": np.array([[1, 0, 1]])}
    # With momentum and decay, which move even a weight that has no gradient.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    handles = calibrate.apply_masks(model, masks, (4, 4), optimizer)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), wanted)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for handle in handles:
        handle.remove()
    from safetensors.torch import save_file as save_checkpoint

    save_checkpoint(model.state_dict(), tmp_path / "tuned.safetensors")
    tuned = load_file(tmp_path / "tuned.safetensors")
    assert losses[-1] < losses[0]
    assert set(tuned) == set(model.state_dict())
    for name, mask in masks.items():
        kept = calibrate.expand(mask, (4, 4), tuned[name].shape)
        assert not tuned[name][~kept].any()
        assert not np.signbit(tuned[name][~kept]).any(), "an absent block's bytes are all zero"
        assert tuned[name][kept].all()


def test_masks_of_other_names_or_blocks_are_refused(torch: Any) -> None:
    """Before anything is zeroed."""
    model = small_model(torch)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"1\.weight: masked, but not"):
        calibrate.apply_masks(model, {"1.weight": np.ones((1, 1))}, (4, 4))
    with pytest.raises(ValueError, match=r"0\.weight: .*need \(3, 2\): give masks and block"):
        calibrate.apply_masks(model, {"0.weight": np.ones((1, 1))}, (4, 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
