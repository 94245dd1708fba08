#!/usr/bin/env python3
"""Compares a cold task switch with loading the next task's whole sparse checkpoint by the usual loaders.

    pip install -r benches/peers/requirements.txt; apt-get install fio
    cargo build --release
    benches/peers/peers.py target/model.mesh --from task-0 --to task-1

In each round everything is measured once, in an order drawn anew from a seed, each time with nothing of the files in
the page cache. The table has medians over the rounds; a ratio is the median of the rounds' own ratios, each to the cold
switch of the same round. README.md beside this file says what each row does. The checkpoint is written beside the
bundle and removed afterwards (--folder keeps it for the next run).

Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

import argparse
import gc
import hashlib
import json
import math
import mmap
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

INSTALL = "run `pip install -r benches/peers/requirements.txt`"
try:
    import numpy as np
except ImportError as missing:
    sys.exit(f"peers: {missing}: {INSTALL}")

ROOT = Path(__file__).resolve().parent.parent.parent
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
MIB = 1 << 20
PAGE = 4096
THREADS = 4
# What one call reads at most; the kernel's own limit is a page below 2 GiB.
CALL = 1 << 30
# fio tells its time in whole milliseconds, so it repeats what is small until it has read so much, or so often.
FIO_BYTES = 256 * MIB
FIO_LOOPS = 1000
# The rows of the program itself, and what it calls them.
COLD, RELOAD = "cold switch", "reload"
OWN = {COLD: "cold", RELOAD: "reload"}
RAW_DIFF = ("pread4-diff", "pread4-diff huge", "fio-diff")
# Tells what the disk can do; it leaves nothing in memory that could be used.
FIO_TASK = "fio-task"

# What a loader leaves in memory: tensors of torch in the order of their names, or plain memory.
Loaded = list[Any]
Load = Callable[[], Loaded]


class Failure(Exception):
    """What went wrong, where, and what to do."""


@dataclass
class Bundle:
    path: Path
    id: str
    dtype: str
    shape: list[int]
    block_bytes: int
    data_start: int
    tensors: int
    sets: dict[str, np.ndarray]

    def blocks(self) -> np.ndarray:
        """The file's blocks, mapped: what keeps this keeps their pages in the cache."""
        return np.memmap(self.path, np.uint8, "r", self.data_start, (self.shape[0], self.block_bytes))

    def bytes(self, blocks: np.ndarray) -> int:
        return int(blocks.sum()) * self.block_bytes


@dataclass
class Peer:
    """What is measured in one go: for each row its bytes, and a function that gives the seconds of each."""

    rows: dict[str, int]
    measure: Callable[[], dict[str, float]]


def open_bundle(path: Path) -> Bundle:
    """Header and task sets; whether they are right is for the program to check."""
    if not path.is_file():
        raise ValueError(f"there is no bundle {path}: make one with `synchromesh compile`")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            # A file of another kind may announce any length.
            header = json.loads(file.read(length) if length <= 64 * MIB else b"")
            about = json.loads(header["__metadata__"]["synchromesh"])
            blocks = header["blocks"]
        except (ValueError, KeyError, TypeError):
            raise Failure(f"{path} is not a bundle: make one with `synchromesh compile`") from None
        sets = {}
        for task in (task["name"] for task in about["tasks"]):
            begin, end = header[f"tasks/{task}"]["data_offsets"]
            file.seek(8 + length + begin)
            bits = np.frombuffer(file.read(end - begin), np.uint8)
            sets[task] = np.unpackbits(bits, bitorder="little")[: blocks["shape"][0]].astype(bool)
    block_bytes = (blocks["data_offsets"][1] - blocks["data_offsets"][0]) // blocks["shape"][0]
    return Bundle(path, about["bundle_id"], blocks["dtype"], blocks["shape"], block_bytes, 8 + length,
                  len(about["tensors"]), sets)


def pieces(bundle: Bundle, task: str) -> list[np.ndarray]:
    """The task's blocks, cut into as many tensors as the model has weights, but none above 16 MiB."""
    kept = np.flatnonzero(bundle.sets[task])
    size = min(16 * MIB // bundle.block_bytes, math.ceil(len(kept) / bundle.tensors))
    return [kept[begin : begin + size] for begin in range(0, len(kept), size)]


def write_checkpoint(bundle: Bundle, task: str, path: Path) -> None:
    header, offset = {}, 0
    for number, piece in enumerate(pieces(bundle, task)):
        end = offset + len(piece) * bundle.block_bytes
        header[f"weights.{number:05}"] = {
            "dtype": bundle.dtype, "shape": [len(piece), *bundle.shape[1:]], "data_offsets": [offset, end]
        }
        offset = end
    text = json.dumps(header).encode()
    # The data begin at a page: the best that loaders with O_DIRECT can hope for.
    text += b" " * (-(8 + len(text)) % PAGE)
    blocks = bundle.blocks()
    partial_path = path.with_suffix(".partial")
    with partial_path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece in pieces(bundle, task):
            file.write(blocks[piece])
        file.flush()
        os.fsync(file.fileno())
    partial_path.rename(path)


def digest(parts: Iterable[Any]) -> str:
    summed = hashlib.sha256()
    for part in parts:
        summed.update(part)
    return summed.hexdigest()


def plain(part: Any) -> Any:
    """A tensor of torch as memory that can be hashed; memory as it is."""
    if isinstance(part, memoryview):
        return part
    import torch

    return part.reshape(-1).view(torch.uint8).numpy()


def by_name(tensors: dict[str, Any]) -> Loaded:
    return [tensors[name] for name in sorted(tensors)]


def safetensors_mmap(path: Path) -> Load:
    import torch
    from safetensors.torch import load_file

    def load() -> Loaded:
        tensors = by_name(load_file(path))
        # A tensor may be nothing but a mapping: one byte of each page brings it into memory.
        for tensor in tensors:
            tensor.reshape(-1).view(torch.uint8)[::PAGE].sum()
        return tensors

    return load


def safetensors_pread(path: Path) -> Load:
    from safetensors.torch import load_file

    return lambda: by_name(load_file(path, backend="pread"))


def fastsafetensors(path: Path) -> Load:
    from fastsafetensors import fastsafe_open

    def load() -> Loaded:
        with fastsafe_open(str(path), nogds=True) as file:
            return by_name({name: file.get_tensor(name) for name in file.keys()})

    return load


def runai_streamer(path: Path) -> Load:
    from runai_model_streamer import SafetensorsStreamer

    def load() -> Loaded:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(str(path))
            return by_name(dict(streamer.get_tensors()))

    return load


class Pread:
    """Reads with a few threads and O_DIRECT; file, threads and memory are there before, with all pages in place."""

    def __init__(self, path: Path, length: int, advice: int) -> None:
        self.file = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self.memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.madvise(advice)
        np.frombuffer(self.memory, np.uint8)[::PAGE] = 1
        self.pool = ThreadPoolExecutor(THREADS)

    def load(self, offset: int, length: int) -> Loaded:
        share = math.ceil(length / THREADS / PAGE) * PAGE
        begins = range(0, length, share)
        list(self.pool.map(partial(self.read, offset), begins, (min(begin + share, length) for begin in begins)))
        return [memoryview(self.memory)[:length]]

    def read(self, offset: int, begin: int, end: int) -> None:
        window = memoryview(self.memory)
        while begin < end:
            count = os.preadv(self.file, [window[begin : min(begin + CALL, end)]], offset + begin)
            if not count:
                raise OSError("the checkpoint ended too early")
            begin += count


def fio(path: Path, length: int) -> float:
    """Seconds that fio needs to read so many bytes, the mean where it repeats them."""
    if not shutil.which("fio"):
        raise OSError("fio is not installed: run `apt-get install fio`")
    loops = min(math.ceil(FIO_BYTES / length), FIO_LOOPS)
    words = ["fio", "--name=peers", "--readonly", f"--filename={path.name}", "--rw=read", "--ioengine=io_uring",
             "--direct=1", f"--bs={min(MIB, length)}", "--iodepth=32", f"--size={length}", f"--loops={loops}",
             "--output-format=json"]
    finished = subprocess.run(words, cwd=path.parent, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise OSError(f"fio failed: {finished.stderr.strip()}")
    # Notes may stand before the object.
    read = json.loads(finished.stdout[finished.stdout.index("{") :])["jobs"][0]["read"]
    # The last request of each go is a whole one, too.
    return read["runtime"] / 1000 * length / read["io_bytes"]


def bench(program: Path, bundle: Bundle, tasks: list[str]) -> dict[str, Any]:
    # Its code is in memory, as that of the libraries is.
    program.read_bytes()
    words: list[str | Path] = [program.resolve(), "bench", bundle.path, "--from", tasks[0], "--to", tasks[1]]
    words += ["--rounds", "1", "--json"]
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise Failure(f"`{program.name} bench` failed: {finished.stderr.strip()}")
    try:
        return json.loads(finished.stdout)
    except ValueError:
        raise Failure(f"`{program.name} bench --json` did not print one JSON object: build the program anew") from None


def own_seconds(report: dict[str, Any]) -> dict[str, float]:
    try:
        samples = {measure["name"]: measure["samples_us"] for measure in report["measures"]}
        return {row: statistics.median(samples[name]) / 1e6 for row, name in OWN.items()}
    except (KeyError, statistics.StatisticsError):
        raise Failure(f"the program's bench lacks {' or '.join(OWN.values())}: build the program anew") from None


def load_seconds(load: Load) -> float:
    """What was loaded is gone when this returns."""
    gc.collect()
    started = time.perf_counter()
    loaded = load()
    seconds = time.perf_counter() - started
    del loaded
    return seconds


def loading(name: str, load: Load, length: int, expected: str) -> Peer:
    """A loader that has loaded the file once, and rightly."""
    if digest(plain(part) for part in load()) != expected:
        raise Failure(f"{name} loaded other bytes than the bundle has: delete the checkpoint in --folder and try "
                      "again; if that does not help, do not trust this loader")
    return Peer({name: length}, lambda: {name: load_seconds(load)})


def reading(name: str, path: Path, length: int) -> Peer:
    fio(path, length)
    return Peer({name: length}, lambda: {name: fio(path, length)})


def makers(bundle: Bundle, task: str, checkpoint: Path, diff_bytes: int) -> dict[str, Callable[[str], Peer]]:
    """What makes each peer, by the name of its row."""
    blocks, task_bytes = bundle.blocks(), bundle.bytes(bundle.sets[task])
    whole = digest(blocks[piece] for piece in pieces(bundle, task))
    first = np.flatnonzero(bundle.sets[task])[: diff_bytes // bundle.block_bytes]
    begin = digest(blocks[[index]] for index in first)
    offset = checkpoint.stat().st_size - task_bytes
    pread = cache(partial(Pread, checkpoint, task_bytes))

    def raw(advice: int, length: int, expected: str) -> Callable[[str], Peer]:
        return lambda name: loading(name, partial(pread(advice).load, offset, length), length, expected)

    def loader(make: Callable[[Path], Load]) -> Callable[[str], Peer]:
        return lambda name: loading(name, make(checkpoint), task_bytes, whole)

    return {
        "pread4-diff": raw(mmap.MADV_NOHUGEPAGE, diff_bytes, begin),
        "pread4-diff huge": raw(mmap.MADV_HUGEPAGE, diff_bytes, begin),
        "fio-diff": partial(reading, path=checkpoint, length=diff_bytes),
        "pread4": raw(mmap.MADV_NOHUGEPAGE, task_bytes, whole),
        "pread4 huge": raw(mmap.MADV_HUGEPAGE, task_bytes, whole),
        FIO_TASK: partial(reading, path=checkpoint, length=task_bytes),
        "safetensors mmap": loader(safetensors_mmap),
        "safetensors pread": loader(safetensors_pread),
        "fastsafetensors": loader(fastsafetensors),
        "runai streamer": loader(runai_streamer),
    }


def assemble(made_by: dict[str, Callable[[str], Peer]]) -> tuple[list[Peer], dict[str, str]]:
    """All peers that work here, warm; and why the others do not."""
    peers, absent = [], {}
    for name, make in made_by.items():
        try:
            peers.append(make(name))
        except Failure:
            raise
        except ImportError as reason:
            absent[name] = f"{reason}: {INSTALL}"
        except Exception as reason:  # Libraries fail in their own ways; the others go on.
            absent[name] = str(reason)
    return peers, absent


def cold_by() -> str:
    try:
        DROP_CACHES.write_text("3")
        return "drop_caches"
    except OSError:
        return "posix_fadvise"


def make_cold(files: list[Path], by: str) -> None:
    os.sync()
    if by == "drop_caches":
        DROP_CACHES.write_text("3")
        return
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def interleaved(peers: list[Peer], rounds: int, files: list[Path], by: str) -> dict[str, list[float]]:
    """By row the seconds of each round."""
    order = random.Random(0)
    seconds: dict[str, list[float]] = {row: [] for peer in peers for row in peer.rows}
    for _ in range(rounds):
        for peer in order.sample(peers, len(peers)):
            make_cold(files, by)
            try:
                measured = peer.measure()
            except Failure:
                raise
            except Exception as reason:  # It worked before; without it the rounds are not whole.
                raise Failure(f"{', '.join(peer.rows)} failed in a round: {reason}") from reason
            for row, taken in measured.items():
                seconds[row].append(taken)
    return seconds


def figures(name: str, length: int, seconds: list[float], cold: list[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "name": name,
        "bytes": length,
        "median_ms": median * 1e3,
        "min_ms": min(seconds) * 1e3,
        "max_ms": max(seconds) * 1e3,
        "gb_per_s": length / median / 1e9,
        "ratio": statistics.median(own / of for own, of in zip(seconds, cold, strict=True)),
        "samples_ms": [sample * 1e3 for sample in seconds],
    }


def file_system(path: Path) -> str:
    device = path.stat().st_dev
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        if before.split()[2] == f"{os.major(device)}:{os.minor(device)}":
            return after.split()[0]
    return "unknown file system"


def machine(path: Path) -> str:
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    return (f"{os.cpu_count()} cores of {(names or [platform.machine()])[0]}, Linux {platform.release()}, "
            f"{file_system(path)}")


def print_table(result: dict[str, Any]) -> None:
    print(f"{result['machine']}; page cache emptied by {result['cold_by']}\n")
    print(f"{result['from']} to {result['to']}, {result['rounds']} rounds, backend {result['backend']}; the difference "
          f"is {100 * result['diff_bytes'] / result['task_bytes']:.2f} % of the task\n")
    print("| | bytes | median ms | min to max | GB/s | time against the cold switch |\n|---|---|---|---|---|---|")
    for row in result["rows"]:
        print(f"| {row['name']} | {row['bytes']:,} | {row['median_ms']:.2f} | {row['min_ms']:.2f} to "
              f"{row['max_ms']:.2f} | {row['gb_per_s']:.2f} | {row['ratio']:.2f} x |")
    ratios = {row["name"]: row["ratio"] for row in result["rows"]}
    raw = min((name for name in RAW_DIFF if name in ratios), key=ratios.__getitem__, default=None)
    whole = min(ratios.keys() - {COLD, *RAW_DIFF, RELOAD, FIO_TASK}, key=ratios.__getitem__, default=None)
    print()
    if raw:
        print(f"Bytes over time of the cold switch: {ratios[raw]:.2f} of {raw}.")
    if whole:
        print(f"Fastest with the whole task: {whole}, {ratios[whole]:.2f} x the time of the cold switch.")
    for name, reason in result["absent"].items():
        print(f"Not measured: {name}: {reason}")


def compare(bundle: Bundle, tasks: list[str], program: Path, rounds: int, folder: Path) -> dict[str, Any]:
    before, after = (bundle.sets[task] for task in tasks)
    task_bytes, diff_bytes = bundle.bytes(after), bundle.bytes(after & ~before)
    # The first run brings the program's code into memory, and tells early if it cannot do this.
    report = bench(program, bundle, tasks)
    own_seconds(report)
    counted = report.get("diff_bytes"), report.get("task_bytes")
    if counted != (diff_bytes, task_bytes):
        raise Failure(f"the program counts {counted[0]} bytes of {counted[1]} for this switch, the sets in "
                      f"{bundle.path} {diff_bytes} of {task_bytes}: build the program anew")
    checkpoint = folder / f"{bundle.id}-{tasks[1]}.safetensors"
    if not checkpoint.exists():
        write_checkpoint(bundle, tasks[1], checkpoint)
    own = Peer({COLD: diff_bytes, RELOAD: task_bytes}, lambda: own_seconds(bench(program, bundle, tasks)))
    # That each has read the file once matters too: what was just written is slower the first time.
    others, absent = assemble(makers(bundle, tasks[1], checkpoint, diff_bytes))
    by = cold_by()
    seconds = interleaved([own, *others], rounds, [bundle.path, checkpoint], by)
    lengths = {row: length for peer in [own, *others] for row, length in peer.rows.items()}
    # First what is as long as the difference, then the whole task.
    rows = [figures(row, lengths[row], seconds[row], seconds[COLD]) for row in sorted(lengths, key=lengths.__getitem__)]
    return {
        "machine": machine(bundle.path), "cold_by": by, "from": tasks[0], "to": tasks[1], "rounds": rounds,
        "backend": report.get("backend"), "task_bytes": task_bytes, "diff_bytes": diff_bytes, "rows": rows,
        "absent": absent,
    }


def choose_tasks(bundle: Bundle, before: str | None, after: str | None) -> list[str]:
    """Those that were named, or else the first two; raises ValueError where they make no switch."""
    names = list(bundle.sets)
    for task in (before, after):
        if task is not None and task not in names:
            raise ValueError(f"{bundle.path} has no task {task}: choose of {', '.join(names)}")
    before = before or next((name for name in names if name != after), names[0])
    after = after or next((name for name in names if name != before), names[0])
    if not (bundle.sets[after] & ~bundle.sets[before]).any():
        raise ValueError(f"a switch from {before} to {after} loads nothing: choose others with --from and --to")
    return [before, after]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE.mesh")
    parser.add_argument("--from", dest="before", metavar="TASK", help="default: the first task")
    parser.add_argument("--to", dest="after", metavar="TASK", help="default: the next one")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/synchromesh")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written, and kept")
    return parser


def check_folder(folder: Path | None, bundle: Bundle) -> None:
    """Makes it if need be; raises ValueError where times would be those of another disk."""
    if not folder:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_dev != bundle.path.stat().st_dev:
        raise ValueError(f"{folder} is not on the disk of {bundle.path}: choose another --folder")


def run(args: argparse.Namespace, bundle: Bundle, tasks: list[str]) -> dict[str, Any]:
    if args.folder:
        return compare(bundle, tasks, args.program, args.rounds, args.folder)
    with tempfile.TemporaryDirectory(prefix="synchromesh-peers-", dir=bundle.path.parent) as folder:
        return compare(bundle, tasks, args.program, args.rounds, Path(folder))


def main() -> None:
    parser = arguments()
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not os.access(args.program, os.X_OK):
        parser.error(f"there is no program {args.program}: run `cargo build --release`, or name one with --program")
    try:
        bundle = open_bundle(args.bundle)
        tasks = choose_tasks(bundle, args.before, args.after)
        check_folder(args.folder, bundle)
    except (ValueError, OSError) as wrong:
        parser.error(str(wrong))
    except Failure as reason:
        sys.exit(f"peers: {reason}")
    try:
        result = run(args, bundle, tasks)
    except (Failure, OSError) as reason:
        sys.exit(f"peers: {reason}")
    if args.json:
        print(json.dumps(result))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
