#!/usr/bin/env python3
"""Sentence embeddings of all-MiniLM-L6-v2, computed on the daemon's memory while another process switches its tasks.

Each batch takes a lease and computes with the blocks in place. What comes out is compared, bit for bit, with the same
arithmetic over the original model's weights times the task's mask; and, to within the rounding of float32, with plain
products of such dense weights. Weights of two tasks mixed up in one batch would show in both.

    python3 -m venv target/python
    target/python/bin/python -m pip install ./python tokenizers safetensors
    scripts/fetch-minilm.sh
    target/release/synchromesh compile examples/minilm/recipe.yaml
    target/release/synchromesh serve --config target/minilm.yaml &
    target/python/bin/python python/examples/minilm.py --control target/control.sock --attach target/attach.sock

target/minilm.yaml is the README's configuration.

Not here: a fast encoder. It is scripts/minilm.py's, which needs nothing but numpy.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import numpy as np
from numpy.typing import NDArray

import synchromesh

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from minilm import Encoder, load_model  # noqa: E402

Array = NDArray[np.float32]
Block = tuple[int, int, Array]

SENTENCES = (
    "The parking sensor reports an obstacle two metres behind the left rear wheel.",
    "#include <stdio.h> declares the functions for input and output.",
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software.",
    "A night train crosses the valley while snow falls on the pines.",
)
# Two ways to add up products in float32, through six layers, differ by less than this: about 3e-7 was seen.
ROUNDING = 2e-6
# How long past its time, in seconds, the comparison waits for tasks that were not leased yet.
PATIENCE = 60
# How much nearer one task's two results must be to each other than two tasks' are.
APART = 100


class Base(dict[str, Any]):
    """Tensors by name, each had when it is asked for."""

    def __init__(self, get: Callable[[str], Any]) -> None:
        super().__init__()
        self.get_tensor = get

    def __missing__(self, name: str) -> Any:
        return self.get_tensor(name)


class OverBlocks(Encoder):
    """The encoder over base tensors and products that are handed in."""

    def __init__(self, plain: Encoder, weights: Mapping[str, Any], product: Callable[[str, Array], Array]) -> None:
        self.__dict__.update(plain.__dict__)
        self.weights = weights
        self.product = product

    def linear(self, name: str, x: Array) -> Array:
        """`x` times the transposed weight, and the bias."""
        product: Array = self.product(f"{name}.weight", x) + self.weights[f"{name}.bias"]
        return product


def embed(encoder: Encoder, batch: list[Array]) -> Array:
    """The sentences' embeddings, [sentences, width]: the mean over tokens, of length 1."""
    means = np.concatenate([encoder.forward(ids).mean(axis=1) for ids in batch])
    embeddings: Array = means / np.linalg.norm(means, axis=1, keepdims=True)
    return embeddings


class Expected:
    """What each task's embeddings must be, worked out from the original weights and the bundle's masks."""

    def __init__(self, plain: Encoder, model: synchromesh.Model, batch: list[Array]) -> None:
        self.plain, self.model, self.batch = plain, model, batch
        self.exact: dict[str, Array] = {}
        self.near: dict[str, Array] = {}

    def of(self, task: str) -> Array:
        """The embeddings by the same arithmetic; plain products are worked out on the way."""
        if task not in self.exact:
            masked = {name: self._masked(task, name) for name in self.model.tensors}
            weights = {**self.plain.weights, **masked}

            def product(name: str, x: Array) -> Array:
                return synchromesh.matmul(self._blocks(task, name, masked[name]), x, len(masked[name]))

            self.exact[task] = embed(OverBlocks(self.plain, weights, product), self.batch)
            self.near[task] = embed(OverBlocks(self.plain, weights, lambda name, x: x @ weights[name].T), self.batch)
        return self.exact[task]

    def _kept(self, task: str, name: str) -> NDArray[np.bool_]:
        return self.model.placed(task, name) != synchromesh.ABSENT

    def _masked(self, task: str, name: str) -> Array:
        height, width = self.model.block_shape
        mask = self._kept(task, name).repeat(height, axis=0).repeat(width, axis=1)
        dense = self.plain.weights[name]
        return np.where(mask[: dense.shape[0], : dense.shape[1]], dense, np.float32(0))

    def _blocks(self, task: str, name: str, masked: Array) -> Iterator[Block]:
        height, width = self.model.block_shape
        for row, col in (np.argwhere(self._kept(task, name)) * (height, width)).tolist():
            yield row, col, masked[row : row + height, col : col + width]


def keep_switching(control: str, stop: Any, switches: Any) -> None:
    """Switches from task to task as fast as it can. In no fixed order: leases could fall into step with it."""
    order = random.Random(0)
    with synchromesh.Control(control) as calls:
        tasks = [task.name for task in calls.list_models()[0].tasks]
        while not stop.is_set():
            calls.switch_task(order.choice(tasks))
            switches.value += 1


def compare(
    session: synchromesh.Attachment, expected: Expected, seconds: float, switching: Callable[[], bool]
) -> Counter[str]:
    """Computes batch after batch, until the time is over and each task was seen; gives how many of each were right.

    One that is not ends the program, and so does a task that is not seen in `PATIENCE` seconds more.
    """
    batches: Counter[str] = Counter()
    session.wait(timeout=60)
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(batches) < len(session.model.tasks):
        if not switching():
            sys.exit("the process that switches has ended")
        if time.monotonic() > end + PATIENCE:
            sys.exit(f"never leased: {', '.join(sorted(set(session.model.tasks) - set(batches)))}")
        with session.lease() as lease:
            found = embed(OverBlocks(expected.plain, Base(lease.base), lease.matmul), expected.batch)
            task, generation = lease.task, lease.generation
        if found.tobytes() != expected.of(task).tobytes():
            sys.exit(f"generation {generation}, {task}: not the embeddings of that task's weights")
        batches[task] += 1
    return batches


def distances(expected: Expected) -> tuple[float, float]:
    """The largest difference that rounding makes, and the least distance of two tasks' embeddings of a sentence."""
    names = list(expected.exact)
    rounding = max(float(np.abs(expected.exact[n] - expected.near[n]).max()) for n in names)
    apart = min(
        float(np.abs(expected.exact[a] - expected.exact[b]).max(axis=1).min()) for a in names for b in names if a < b
    )
    return rounding, apart


def main() -> None:
    """Runs the comparison and prints what came of it."""
    parser = argparse.ArgumentParser(description="Sentence embeddings from the daemon's memory, under switching.")
    parser.add_argument("--control", required=True, help="the daemon's control socket")
    parser.add_argument("--attach", required=True, help="the daemon's attach socket")
    parser.add_argument("--model", type=Path, default=ROOT / "target/minilm", help="the folder of the original model")
    parser.add_argument("--seconds", type=float, default=10, help="how long to compute")
    options = parser.parse_args()

    tokenizer, plain = load_model(options.model)
    batch = [np.array([tokenizer.encode(sentence).ids]) for sentence in SENTENCES]
    spawn = multiprocessing.get_context("spawn")
    stop, switches = spawn.Event(), spawn.Value("Q", 0)
    switcher = spawn.Process(target=keep_switching, args=(options.control, stop, switches), daemon=True)
    switcher.start()
    with synchromesh.Attachment(options.attach) as session:
        expected = Expected(plain, session.model, batch)
        batches = compare(session, expected, options.seconds, switcher.is_alive)
    stop.set()
    switcher.join()
    rounding, apart = distances(expected)
    if not APART * rounding < apart or rounding > ROUNDING:
        sys.exit(f"plain products differ by {rounding:.1e}, where tasks differ by {apart:.1e}")
    print(f"{sum(batches.values())} batches of {len(batch)} sentences, bit for bit right, in {switches.value} switches")
    print(", ".join(f"{task} {count}" for task, count in sorted(batches.items())))
    print(f"rounding makes {rounding:.1e} of difference, another task at least {apart:.1e}")


if __name__ == "__main__":
    main()
