"""A small model with four tasks, one of each kind, in F32 or BF16, and what each task must have of it.

Not here: the program's code; what is expected is worked out with numpy from docs/format.md and the recipe's meaning.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = dict[str, Array]

TASKS = ("city", "fog", "park", "rain")
CUT = {"layer.0.weight": (96, 128), "layer.1.weight": (70, 100)}
# A block has at least 4096 bytes.
BLOCKS = {"F32": (32, 32), "BF16": (32, 64)}
RECIPE = """\
model: {model}
output: {model}.mesh
weights: weights.safetensors
block: {{rows: {rows}, cols: {cols}}}
prune: {{include: ['layer.*.weight']}}
tasks:
- {{name: city, keep: 0.5, norms: norms.safetensors}}
- {{name: fog, keep: 0.25, importance: importance.safetensors}}
- {{name: park, mask: mask.safetensors}}
- {{name: rain, checkpoint: checkpoint.safetensors}}
"""


@dataclass(frozen=True)
class Inputs:
    """A model as numpy sees it: by task, the weights that must be served. `shared` is the base."""

    name: str
    dtype: str
    recipe: Path
    shared: Tensors
    tasks: Mapping[str, Tensors]

    @property
    def bundle(self) -> Path:
        """Where the recipe puts the bundle."""
        return self.recipe.with_name(f"{self.name}.mesh")

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        return BLOCKS[self.dtype]


def bf16(values: Array) -> Array:
    """BF16, as uint16, by cutting off: the numbers are random anyhow."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def floats(values: Array) -> Array:
    """Weights as float32."""
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values


def write(folder: Path, dtype: str) -> Inputs:
    """Writes a recipe and all that it names."""
    random = np.random.default_rng(7)
    block = BLOCKS[dtype]
    make = bf16 if dtype == "BF16" else np.float32
    weights = {name: make(random.standard_normal(shape)) for name, shape in CUT.items()}
    weights["layer.0.weight"][:32, 64:128] = 0
    shared: Tensors = {
        "embed.weight": make(random.standard_normal((40, 32))),
        "norm.bias": random.standard_normal(100).astype(np.float16),
        "positions": np.arange(7, dtype=np.int64).reshape(1, 7),
        "used": np.array([True, False, True]),
    }
    norms = {name: random.lognormal(size=shape[1]).astype(np.float32) for name, shape in CUT.items()}
    importance = {name: random.random(shape).astype(np.float16) for name, shape in CUT.items()}
    mask = {name: random.integers(0, 2, grid(shape, block), dtype=np.uint8) for name, shape in CUT.items()}
    tuned = {name: values.copy() for name, values in weights.items()}
    tuned["layer.0.weight"][32:, :64] = 0
    tuned["layer.0.weight"][64:] = 0
    tuned["layer.0.weight"][33, 70] = make(np.array(-2.5))
    tuned["layer.1.weight"][69, 99] = make(np.array(7.5))
    tuned["layer.1.weight"][32:64, :64] = 0
    files = {"weights": weights | shared, "norms": norms, "importance": importance, "mask": mask, "checkpoint": tuned}
    for name, tensors in files.items():
        save(folder / f"{name}.safetensors", tensors)
    recipe = folder / "recipe.yaml"
    model = f"small-{dtype.lower()}"
    recipe.write_text(RECIPE.format(model=model, rows=block[0], cols=block[1]))
    wanda = {n: sums((np.abs(floats(weights[n]).astype(np.float64)) * norms[n]) ** 2, block) for n in CUT}
    tasks = {
        "city": {n: keep(weights[n], best(wanda[n], 0.5), block) for n in CUT},
        "fog": {n: keep(weights[n], best(sums(importance[n], block), 0.25), block) for n in CUT},
        "park": {n: keep(weights[n], mask[n], block) for n in CUT},
        "rain": tuned,
    }
    return Inputs(model, dtype, recipe, shared, tasks)


def save(path: Path, tensors: Tensors) -> None:
    """Writes a safetensors file; uint16 stands for BF16."""
    names = {"<f4": "F32", "<f2": "F16", "<u2": "BF16", "<i8": "I64", "|u1": "U8", "|b1": "BOOL"}
    header, data = {}, b""
    for name, tensor in tensors.items():
        ends = [len(data), len(data) + tensor.nbytes]
        header[name] = {"dtype": names[tensor.dtype.str], "shape": tensor.shape, "data_offsets": ends}
        data += tensor.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def grid(shape: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    """How many blocks a tensor has along its rows and columns."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def sums(values: Array, block: tuple[int, int]) -> Array:
    """The sum of each block."""
    rows, cols = grid((values.shape[0], values.shape[1]), block)
    padded = np.zeros((rows * block[0], cols * block[1]))
    padded[: values.shape[0], : values.shape[1]] = values
    return padded.reshape(rows, block[0], cols, block[1]).sum(axis=(1, 3))


def best(scores: Array, share: float) -> Array:
    """A mask of the share of blocks that score highest."""
    mask = np.zeros(scores.size, np.uint8)
    mask[np.argsort(-scores.ravel(), kind="stable")[: round(share * scores.size)]] = 1
    return mask.reshape(scores.shape)


def keep(values: Array, mask: Array, block: tuple[int, int]) -> Array:
    """The tensor with zeros where the mask has no block."""
    elements = mask.repeat(block[0], axis=0).repeat(block[1], axis=1)[: values.shape[0], : values.shape[1]]
    return np.where(elements == 1, values, np.zeros((), values.dtype))
