"""Models whose tasks share most of their blocks, as masks say."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import served

# Elements of a block's side: 4 KiB of F32.
SIDE = 32
# How a car's tasks follow one another: from, to, weight.
JOURNEY = [
    ("city", "parking", 3), ("city", "rural", 3), ("city", "tunnel", 2), ("city", "night", 2),
    ("rural", "highway", 5), ("rural", "city", 3), ("rural", "fog", 2), ("rural", "rain", 1),
    ("highway", "rural", 4), ("highway", "rain", 3), ("highway", "tunnel", 3), ("highway", "night", 1),
    ("tunnel", "highway", 6), ("tunnel", "city", 3), ("rain", "highway", 5), ("rain", "fog", 1),
    ("fog", "rural", 4), ("night", "city", 3), ("night", "rural", 1), ("parking", "city", 8),
]  # fmt: skip
TASKS = ["city", "fog", "highway", "night", "parking", "rain", "rural", "tunnel"]


def pack(folder: Path, name: str, side: int, masks: Mapping[str, np.ndarray]) -> Path:
    """A bundle of one square weight of side x side blocks, of which each task keeps those of its mask."""
    random = np.random.default_rng(7)
    weight = random.standard_normal((side * SIDE, side * SIDE), dtype=np.float32)
    save_file({"weight": weight, "bias": random.standard_normal(4096, dtype=np.float32)}, folder / f"{name}.safetensors")
    for task, mask in masks.items():
        save_file({"weight": mask.reshape(side, side).astype(np.uint8)}, folder / f"{name}-{task}.safetensors")
    recipe = {
        "model": name,
        "output": f"{name}.mesh",
        "weights": f"{name}.safetensors",
        "block": {"rows": SIDE, "cols": SIDE},
        "prune": {"include": ["weight"]},
        "tasks": [{"name": task, "mask": f"{name}-{task}.safetensors"} for task in masks],
    }
    if set(masks) == set(TASKS):
        recipe["transitions"] = {"pairs": [{"from": a, "to": b, "weight": w} for a, b, w in JOURNEY]}
    path = folder / f"{name}.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(recipe))
    served.run("pack", path)
    return folder / f"{name}.mesh"


def drive(folder: Path, side: int) -> Path:
    """Eight tasks: half of each is everybody's, a quarter is shared with neighbours, the rest is its own."""
    random = np.random.default_rng(3)
    blocks = side * side
    order = random.permutation(blocks)
    shared, groups, own = np.split(order, [int(blocks * 0.3), int(blocks * 0.55)])
    pairs = np.array_split(groups, len(TASKS))
    alone = np.array_split(own, len(TASKS))
    masks = {}
    for i, task in enumerate(TASKS):
        mask = np.zeros(blocks, dtype=np.uint8)
        mask[np.concatenate([shared, pairs[i], pairs[i - 1], alone[i]])] = 1
        masks[task] = mask
    return pack(folder, "drive", side, masks)


def large(folder: Path) -> Path:
    """16384 blocks, three tasks, and each block in one of them at least."""
    cells = np.arange(128 * 128)
    masks = {"left": cells % 128 < 80, "right": cells % 128 >= 48, "upper": cells < 64 * 128}
    return pack(folder, "large", 128, masks)


def many(folder: Path) -> Path:
    """4096 blocks and 64 tasks, each of which keeps blocks as they were drawn."""
    random = np.random.default_rng(5)
    masks = {f"task-of-a-long-name-{i:02}": (random.random(64 * 64) < 0.5).astype(np.uint8) for i in range(64)}
    return pack(folder, "many", 64, masks)
