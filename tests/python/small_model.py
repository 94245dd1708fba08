"""A small model with four tasks, one of each kind, and what each task must have of it, worked out with numpy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

Tensors = dict[str, np.ndarray]

MODEL = "peers"
SIDE = 32
PRUNED = {"layer.0.weight": (96, 128), "layer.1.weight": (70, 100)}
RECIPE = """\
model: peers
output: peers.mesh
weights: weights.safetensors
block: {rows: 32, cols: 32}
prune: {include: ['layer.*.weight']}
tasks:
- {name: city, keep: 0.5, norms: norms.safetensors}
- {name: fog, keep: 0.25, importance: importance.safetensors}
- {name: park, mask: mask.safetensors}
- {name: rain, checkpoint: checkpoint.safetensors}
"""


@dataclass(frozen=True)
class SmallModel:
    """The dense weights, and by task the weights that it must be served."""

    recipe: Path
    dense: Tensors
    tasks: Mapping[str, Tensors]

    @property
    def base(self) -> Tensors:
        """The tensors that every task has as they are."""
        return {name: tensor for name, tensor in self.dense.items() if name not in PRUNED}


def write(folder: Path) -> SmallModel:
    """Writes recipe and inputs into a folder."""
    random = np.random.default_rng(5)
    dense = weights(random)
    norms = {name: random.lognormal(size=shape[1]).astype(np.float32) for name, shape in PRUNED.items()}
    importance = {name: random.random(shape).astype(np.float16) for name, shape in PRUNED.items()}
    mask = {name: random.integers(0, 2, grid(shape), dtype=np.uint8) for name, shape in PRUNED.items()}
    checkpoint = fine_tuned(dense)
    inputs = {"weights": dense, "norms": norms, "importance": importance, "mask": mask, "checkpoint": checkpoint}
    for name, tensors in inputs.items():
        save_file(tensors, folder / f"{name}.safetensors")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    tasks = {
        "city": masked(dense, {n: best(wanda(dense[n], norms[n]), 0.5) for n in PRUNED}),
        "fog": masked(dense, {n: best(block_sums(importance[n]), 0.25) for n in PRUNED}),
        "park": masked(dense, mask),
        "rain": dense | checkpoint,
    }
    return SmallModel(recipe, dense, tasks)


def weights(random: np.random.Generator) -> Tensors:
    """Two weights to cut, one with edges, with a block of zeros and two equal ones; and base of several types."""
    dense = {name: random.standard_normal(shape).astype(np.float32) for name, shape in PRUNED.items()}
    dense["layer.0.weight"][:SIDE, 64:96] = 0
    dense["layer.0.weight"][32:64, :SIDE] = dense["layer.1.weight"][:SIDE, 32:64]
    dense["embed.weight"] = random.standard_normal((40, 32)).astype(np.float32)
    dense["norm.bias"] = random.standard_normal(100).astype(np.float16)
    dense["positions"] = np.arange(7, dtype=np.int64).reshape(1, 7)
    return dense


def fine_tuned(dense: Tensors) -> Tensors:
    """The weights with two blocks changed, one at an edge, and one gone."""
    tuned = {name: dense[name].copy() for name in PRUNED}
    tuned["layer.0.weight"][33, 70] += 1
    tuned["layer.1.weight"][69, 99] *= -2
    tuned["layer.1.weight"][32:64, 32:64] = 0
    return tuned


def grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many blocks a tensor has along its rows and columns."""
    rows, cols = shape
    return -(-rows // SIDE), -(-cols // SIDE)


def padded(tensor: np.ndarray) -> np.ndarray:
    """The tensor with zeros up to whole blocks."""
    return np.pad(tensor, [(0, -size % SIDE) for size in tensor.shape])


def tiles(tensor: np.ndarray) -> np.ndarray:
    """The tensor's blocks, as [grid row, grid column, row, column]."""
    rows, cols = grid(tensor.shape)
    return padded(tensor).reshape(rows, SIDE, cols, SIDE).swapaxes(1, 2)


def block_sums(tensor: np.ndarray) -> np.ndarray:
    """The sum of each block."""
    return tiles(tensor.astype(np.float64)).sum(axis=(2, 3))


def wanda(weight: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Each block's importance: the sum of (|weight| x norm)^2."""
    return block_sums((np.abs(weight.astype(np.float64)) * norms) ** 2)


def best(scores: np.ndarray, share: float) -> np.ndarray:
    """A mask of the share of blocks that score highest."""
    mask = np.zeros(scores.size, dtype=np.uint8)
    mask[np.argsort(-scores.ravel(), kind="stable")[: round(share * scores.size)]] = 1
    return mask.reshape(scores.shape)


def masked(dense: Tensors, masks: Tensors) -> Tensors:
    """The weights, with zeros where a mask has no block."""
    return dense | {name: keep(dense[name], mask) for name, mask in masks.items()}


def keep(tensor: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The tensor with zeros where the mask has no block."""
    rows, cols = tensor.shape
    elements = mask.repeat(SIDE, axis=0).repeat(SIDE, axis=1)[:rows, :cols]
    return np.where(elements == 1, tensor, np.zeros((), tensor.dtype))
