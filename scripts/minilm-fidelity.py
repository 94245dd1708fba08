#!/usr/bin/env python3
"""How close all-MiniLM-L6-v2 stays to itself with the kept blocks of each of six text domains: the published table.

The mean cosine between the dense model's and a task's sentence embeddings (mean over tokens, length 1) of texts of the
task's domain that nothing was calibrated with. Three ways to the kept blocks' values, for the same masks:

    none    the dense weights' own
    dense   solved anew, all at once, with moments of the dense model
    staged  solved anew stage by stage, each with moments of the inputs that the stages solved before lead to, and with
            cross moments that ask for the dense model's output; where a stage adds to the residual stream, for what
            the stream has lost so far as well

Blocks are kept by their cost of elimination from the dense model's moments, or by Wanda's norms (--importance norms).
Masks and values come from the program, by way of recipes and bundles in a temporary folder.

    pip install numpy tokenizers safetensors
    scripts/fetch-minilm.sh && cargo build --release && scripts/minilm-fidelity.py
"""

import argparse
import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import minilm  # First: it says what to install where something is missing.
import numpy as np
from calibrate import Recorder, Tensors, elimination_costs, spread, write
from minilm import DOMAINS, ROOT, Encoder, Stage, fail
from safetensors import safe_open

ABSENT = 0xFFFFFFFF
WAYS = ("none", "dense", "staged")
IMPORTANCE = ("elimination", "norms")
# A held-out sequence of which more than half stands in the calibration's texts, in runs of so many tokens, is none.
RUN_TOKENS = 8
# Singular values below this share of the largest are not inverted: float32 would carry mostly noise.
RANK_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Texts:
    """Token ids of one domain, [sequences, tokens]."""

    calibration: np.ndarray
    held_out: np.ndarray


@dataclass(frozen=True)
class Settings:
    """What does not change from row to row of the table."""

    program: Path
    folder: Path
    block: tuple[int, int]
    damping: float
    # The share of what its own best mask retains that `align` must leave a task; at 1 masks do not grow alike.
    quality_floor: float


@dataclass(frozen=True)
class Masks:
    """Who keeps what, as the program chose it."""

    path: Path
    # Mean over ordered pairs of tasks: the share of a task's blocks that a switch to it must read.
    diff: float


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def runs(sequence: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Without the marks at both ends, which all sequences have."""
    for start in range(1, len(sequence) - RUN_TOKENS):
        yield tuple(sequence[start : start + RUN_TOKENS])


def split(domain: str, ids: np.ndarray, calibration: int, held_out: int) -> Texts:
    """The first sequences to calibrate with; behind the next, which may share an excerpt with them, the new ones."""
    known = {words for sequence in ids[:calibration] for words in runs(sequence)}
    fresh = [
        sequence for sequence in ids[calibration + 1 :] if np.mean([words in known for words in runs(sequence)]) <= 0.5
    ]
    if len(fresh) < held_out:
        fail(f"{domain}: only {len(fresh)} of {held_out} sequences differ from those to calibrate with: ask for fewer")
    return Texts(ids[:calibration], np.array(fresh[:held_out]))


def check_pooling(folder: Path) -> None:
    """The embedding is what the model's own files say: mean over tokens, length 1."""
    try:
        pooling = json.loads((folder / "1_Pooling/config.json").read_text())
        modules = [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]
    except (OSError, ValueError) as error:
        fail(f"{folder}: does not say how tokens become a sentence ({error}): run scripts/fetch-minilm.sh")
    modes = [key for key, on in pooling.items() if on is True]
    if (modes, modules) != (["pooling_mode_mean_tokens"], ["Transformer", "Pooling", "Normalize"]):
        fail(f"{folder}: a model of {modules} with {modes}, where mean pooling and normalisation are needed")


def embeddings(encoder: Encoder, ids: np.ndarray) -> np.ndarray:
    means = encoder.forward(ids).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def with_weights(encoder: Encoder, tensors: Tensors) -> Encoder:
    other = copy.copy(encoder)
    other.weights = encoder.weights | tensors
    return other


def run(settings: Settings, command: str, recipe: Path, *options: str) -> str:
    """What the program prints; it must succeed."""
    try:
        done = subprocess.run(
            [settings.program, command, recipe, *options], capture_output=True, text=True, check=False
        )
    except OSError as error:
        fail(f"{settings.program}: cannot be run ({error}): run `cargo build --release`, or name it with --program")
    if done.returncode != 0:
        fail(f"`{settings.program.name} {command}` failed: {done.stderr.strip()}")
    return done.stdout


def write_recipe(settings: Settings, weights: Tensors, tasks: dict[str, dict[str, object]], *, solve: bool) -> Path:
    """A recipe that cuts all of the weights. JSON is YAML."""
    write(settings.folder / "weights.safetensors", weights, {})
    recipe = {
        "model": "minilm",
        "output": "minilm.mesh",
        "weights": "weights.safetensors",
        "block": dict(zip(("rows", "cols"), settings.block, strict=True)),
        "prune": {"include": ["*"]},
        "align": {"quality_floor": settings.quality_floor},
        "tasks": [{"name": name} | task for name, task in tasks.items()],
    }
    if solve:
        recipe["reconstruct"] = {"damping": settings.damping}
    path = settings.folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def compile_weights(
    settings: Settings, weights: Tensors, tasks: dict[str, dict[str, object]], *, solve: bool
) -> dict[str, Tensors]:
    """By task: the weights as its bundle has them."""
    run(settings, "compile", write_recipe(settings, weights, tasks, solve=solve))
    return read_bundle(settings.folder / "minilm.mesh")


def read_bundle(path: Path) -> dict[str, Tensors]:
    """By docs/format.md: each task's tensors, zero where it keeps no block."""
    with safe_open(path, "numpy") as file:
        meta = json.loads(file.metadata()["synchromesh"])
        stored = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("base/")}
    blocks = stored["blocks"]
    # One more, of zeros: what a place without a block has.
    blocks = np.concatenate([blocks, np.zeros_like(blocks[:1])])
    return {
        task["name"]: {tensor["name"]: tensor_of(stored, blocks, task["name"], tensor) for tensor in meta["tensors"]}
        for task in meta["tasks"]
    }


def tensor_of(stored: Tensors, blocks: np.ndarray, task: str, tensor: dict) -> np.ndarray:
    none = len(blocks) - 1
    has = np.unpackbits(stored[f"tasks/{task}"], bitorder="little")[:none].astype(bool)
    shared = np.minimum(stored[f"grid/{tensor['name']}"], none)
    places = np.where(np.append(has, False)[shared], shared, none)
    own = stored.get(f"own/{task}/{tensor['name']}")
    if own is not None:
        places = np.where(own != ABSENT, own, places)
    rows, cols = tensor["shape"]
    tiles = blocks[places].swapaxes(1, 2)
    return tiles.reshape(tiles.shape[0] * tiles.shape[1], -1)[:rows, :cols]


def calibrate_dense(
    settings: Settings, encoder: Encoder, texts: dict[str, Texts], importance: str
) -> dict[str, dict[str, object]]:
    """Each task's importance and moments of the dense model, in files; by task, the recipe's keys for them."""
    files = {}
    for domain, text in texts.items():
        recorder = Recorder()
        dense = copy.copy(encoder)
        dense.observe = recorder.observe
        dense.forward(text.calibration)
        files[domain] = {"moments": f"{domain}-moments.safetensors"}
        recorder.save(moments=settings.folder / files[domain]["moments"])
        if importance == "norms":
            files[domain]["norms"] = f"{domain}-norms.safetensors"
            recorder.save(norms=settings.folder / files[domain]["norms"])
        else:
            files[domain]["importance"] = f"{domain}-importance.safetensors"
            write(settings.folder / files[domain]["importance"], eliminate(settings, encoder, recorder.moments()), {})
    return files


def eliminate(settings: Settings, encoder: Encoder, moments: Tensors) -> Tensors:
    """The importance of each element of each weight, from what its block costs."""
    importance = {}
    for name, second in moments.items():
        weight = encoder.weights[name]
        costs = elimination_costs(weight, second, settings.block, settings.damping)
        importance[name] = spread(costs, settings.block, weight.shape)
    return importance


def choose_masks(settings: Settings, weights: Tensors, files: dict[str, dict[str, object]], keep: float) -> Masks:
    tasks = {
        name: {"keep": keep} | {key: path for key, path in task.items() if key != "moments"}
        for name, task in files.items()
    }
    path = settings.folder / "masks.safetensors"
    recipe = write_recipe(settings, weights, tasks, solve=False)
    figures = json.loads(run(settings, "align", recipe, "--json", "--masks-out", str(path)))
    kept = np.array([task["blocks"] for task in figures["tasks"]])
    shares = np.array(figures["diff"]) / kept
    return Masks(path, float(shares[~np.eye(len(kept), dtype=bool)].mean()))


class Stream:
    """One task's calibration texts on their way through the dense and the sparse model."""

    def __init__(self, dense: Encoder, ids: np.ndarray) -> None:
        self.dense, self.sparse = dense, with_weights(dense, {})
        self.dense_x = self.sparse_x = dense.embed(ids)

    def enter(self, stage: Stage) -> None:
        self.dense_inputs = self.dense.inputs(stage, self.dense_x)
        self.inputs = self.sparse.inputs(stage, self.sparse_x)

    def leave(self, stage: Stage, solved: Tensors) -> None:
        self.sparse.weights |= solved
        self.dense_x = self.dense.finish(stage, self.dense_x, self.dense_inputs)
        self.sparse_x = self.sparse.finish(stage, self.sparse_x, self.inputs)

    def save(self, stage: Stage, moments: Path, cross: Path) -> None:
        recorder = Recorder()
        recorder.observe(stage.weights[0], self.inputs, self.dense_inputs)
        (second,), (mixed,) = recorder.moments().values(), recorder.cross().values()
        if stage.adds:
            mixed = mixed + self.lost(stage, recorder.tokens[stage.weights[0]])
        # The Linears of a stage have one input, so the same moments.
        write(moments, dict.fromkeys(stage.weights, second), {})
        write(cross, dict.fromkeys(stage.weights, mixed.astype(np.float32)), {})

    def lost(self, stage: Stage, tokens: int) -> np.ndarray:
        """What to add to the cross moments C so that W C asks for what the residual stream lost, beside the output.

        Exact where the weight's rows are independent; else as near as its outputs come.
        """
        lost, inputs = ((x.reshape(-1, x.shape[-1])) for x in (self.dense_x - self.sparse_x, self.inputs))
        inverse = np.linalg.pinv(self.dense.weights[stage.weights[0]].astype(np.float64), rcond=RANK_TOLERANCE)
        return inverse @ (lost.T @ inputs / np.float32(tokens))


def solve_staged(settings: Settings, encoder: Encoder, texts: dict[str, Texts], masks: Masks) -> dict[str, Tensors]:
    streams = {domain: Stream(encoder, text.calibration) for domain, text in texts.items()}
    solved = {domain: {} for domain in texts}
    for stage in encoder.stages:
        tasks = {}
        for domain, stream in streams.items():
            stream.enter(stage)
            files = {kind: f"staged-{domain}-{kind}.safetensors" for kind in ("moments", "cross")}
            stream.save(stage, **{kind: settings.folder / name for kind, name in files.items()})
            tasks[domain] = files | {"mask": masks.path.name}
        weights = {name: encoder.weights[name] for name in stage.weights}
        for domain, tensors in compile_weights(settings, weights, tasks, solve=True).items():
            solved[domain] |= tensors
            streams[domain].leave(stage, tensors)
    return solved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="DIR", default=ROOT / "target/minilm", help="the fetched model")
    parser.add_argument("--texts", type=Path, metavar="DIR", default=Path("/"), help="root of the system to read")
    parser.add_argument(
        "--program",
        type=Path,
        metavar="FILE",
        default=ROOT / "target/release/synchromesh",
        help="to choose and solve with",
    )
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.7, 0.85], help="shares of blocks to keep")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="to the kept blocks' values")
    parser.add_argument("--importance", choices=IMPORTANCE, default=IMPORTANCE[0], help="by what blocks are kept")
    parser.add_argument("--rows", type=int, default=32, help="of a block")
    parser.add_argument("--cols", type=int, default=32, help="of a block")
    parser.add_argument("--damping", type=float, default=0.1, help="as in a recipe's reconstruct")
    parser.add_argument("--quality-floor", type=float, default=0.9985, help="as in a recipe's align")
    parser.add_argument("--sequences", type=int, default=64, help="a domain, to calibrate with")
    parser.add_argument("--held-out", type=int, default=32, help="sequences a domain, to compare embeddings of")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    args = parser.parse_args()

    check_pooling(args.model)
    tokenizer, encoder = minilm.load_model(args.model)
    texts = {}
    for domain in DOMAINS:
        # As many again: some repeat what was calibrated with.
        ids = minilm.sequences(tokenizer, args.texts, domain, args.sequences + 2 * args.held_out)
        texts[domain] = split(domain, ids, args.sequences, args.held_out)
    with TemporaryDirectory(prefix="minilm-fidelity-") as folder:
        settings = Settings(
            args.program.resolve(), Path(folder), (args.rows, args.cols), args.damping, args.quality_floor
        )
        rows = list(measure(settings, encoder, texts, args.importance, args.keep, args.ways))
    facts = {
        "model": "all-MiniLM-L6-v2",
        "block": {"rows": args.rows, "cols": args.cols},
        "importance": args.importance,
        "damping": args.damping,
        "quality_floor": args.quality_floor,
        "sequence_tokens": minilm.SEQUENCE_TOKENS,
        "calibration_sequences": args.sequences,
        "held_out_sequences": args.held_out,
    }
    print(json.dumps(facts | {"rows": rows}) if args.json else table(rows))


def measure(
    settings: Settings,
    encoder: Encoder,
    texts: dict[str, Texts],
    importance: str,
    keeps: list[float],
    ways: list[str],
) -> Iterator[dict]:
    """The table's rows."""
    weights = {name: encoder.weights[name] for stage in encoder.stages for name in stage.weights}
    say("dense model: moments, importance and embeddings")
    files = calibrate_dense(settings, encoder, texts, importance)
    wanted = {domain: embeddings(encoder, text.held_out) for domain, text in texts.items()}
    for keep in keeps:
        masks = choose_masks(settings, weights, files, keep)
        for way in ways:
            say(f"keep {keep}: {way}")
            if way == "staged":
                solved = solve_staged(settings, encoder, texts, masks)
            else:
                keys = {"mask": masks.path.name}
                tasks = {
                    name: keys | ({"moments": task["moments"]} if way == "dense" else {})
                    for name, task in files.items()
                }
                solved = compile_weights(settings, weights, tasks, solve=way == "dense")
            cosines = {
                domain: float(
                    (embeddings(with_weights(encoder, solved[domain]), text.held_out) * wanted[domain])
                    .sum(axis=1)
                    .mean()
                )
                for domain, text in texts.items()
            }
            yield {
                "keep": keep,
                "reconstruction": way,
                "diff": masks.diff,
                "cosine": float(np.mean(list(cosines.values()))),
                "tasks": cosines,
            }


def table(rows: list[dict]) -> str:
    domains = list(DOMAINS)
    lines = [["keep", "reconstruction", "mean diff", "mean cosine", *domains]]
    for row in rows:
        cosines = [f"{row['tasks'][domain]:.3f}" for domain in domains]
        lines.append(
            [f"{row['keep']:g}", row["reconstruction"], f"{row['diff']:.2%}", f"{row['cosine']:.3f}", *cosines]
        )
    lines.insert(1, ["-" * len(cell) for cell in lines[0]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


if __name__ == "__main__":
    main()
