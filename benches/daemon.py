#!/usr/bin/env python3
"""Measures what the daemon costs where it runs: memory, CPU when idle, and time from its start until it is ready.

    pip install numpy
    cargo build --release
    benches/daemon.py                     # 1 GiB of bf16, a pool of 600 MiB; 9 starts, one minute idle
    benches/daemon.py --folder F          # keeps the bundle in F for the next run

The bundle is that of switching.py. In each round a start, a raw read of the same bytes and an allocation of as much
memory are measured once, in an order drawn anew from a seed. Needs Linux 5.14 or later.

Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

import argparse
import json
import math
import mmap
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from offline import MIB, PROGRAM, ROOT
from peers.peers import PAGE, THREADS, Failure, Pread, machine, np, open_bundle
from switching import make, task

POOL_BYTES = 600 * MIB
FIRST = "base"
# The pool has room for the blocks of two neighbours of this round trip, but not for all: half of the switches read and
# evict, the others find everything in place.
ROUND_TRIP = [task(0.16), task(0.32), task(0.16), FIRST]
SWITCHES = 200
IDLE_SECONDS = 60
# Longer than any start or end takes.
PATIENCE_SECONDS = 60
# What the log says on the way to being ready, in this order.
MARKS = ("loaded", "switched", "ready")
# The mmap module has no name for it before Python 3.13.
MADV_POPULATE_WRITE = 23
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")

LIMIT_MEMORY = 32 * MIB
LIMIT_IDLE = 0.001
LIMIT_READY_SECONDS = 0.3


@dataclass
class Bundle:
    path: Path
    # What the daemon keeps in memory of the index.
    index_bytes: int
    # Where base and first task lie in the file.
    extents: list[tuple[int, int]]

    def start_bytes(self) -> int:
        return sum(end - begin for begin, end in self.extents)


@dataclass
class Daemon:
    process: subprocess.Popen[str]
    control: Path
    # Seconds from its start to each of MARKS.
    reached: dict[str, float]


@dataclass
class Memory:
    """Bytes of a process."""

    resident: int = 0
    # Pool, table and cells.
    memfd: int = 0
    anonymous: int = 0
    # The program's own code, its share where others run it too.
    text: int = 0


@dataclass
class Activity:
    """What all threads of a process did so far."""

    seconds: float
    # How often a thread has gone to sleep: each time something woke it before.
    sleeps: int
    threads: int


def read_bundle(path: Path) -> Bundle:
    opened = open_bundle(path)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    ranges = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    # As in the file: 8 bytes of checksum a block, for each task a bit a block, 4 bytes a place of each grid.
    index = sum(end - begin for name, (begin, end) in ranges.items()
                if name == "index/checksum" or name.startswith(("tasks/", "grid/", "own/")))
    # Made from the sets at the start: for each block a word with a bit for each task that has it.
    index += 8 * opened.shape[0]
    base = [(opened.data_start + begin, opened.data_start + math.ceil(end / PAGE) * PAGE)
            for name, (begin, end) in ranges.items() if name.startswith("base/")]
    edges = np.flatnonzero(np.diff(opened.sets[FIRST].astype(np.int8), prepend=0, append=0)).tolist()
    blocks = [(opened.data_start + begin * opened.block_bytes, opened.data_start + end * opened.block_bytes)
              for begin, end in zip(edges[::2], edges[1::2], strict=True)]
    return Bundle(path, index, base + blocks)


def write_config(folder: Path, bundle: Path) -> Path:
    path = folder / "synchromesh.yaml"
    path.write_text(json.dumps({
        "models": [{"bundle": str(bundle), "pool_bytes": POOL_BYTES, "initial_task": FIRST}],
        "listen": {"control": str(folder / "control.sock"), "attach": str(folder / "attach.sock")},
        "lock_memory": False,
    }))
    return path


def wait_until_ready(process: subprocess.Popen[str], started: float) -> dict[str, float]:
    """Seconds from the start to each of MARKS."""
    watchdog = threading.Timer(PATIENCE_SECONDS, process.kill)
    watchdog.start()
    reached, lines = {}, []
    for line in process.stderr:
        lines.append(line)
        mark = next((mark for mark in MARKS if f": {mark} " in line), None)
        if mark:
            reached[mark] = time.perf_counter() - started
        if mark == MARKS[-1]:
            watchdog.cancel()
            return reached
    watchdog.cancel()
    raise Failure(f"the daemon ended before it was ready, or was ended after {PATIENCE_SECONDS} s; what it said last:\n"
                  + "".join(lines[-5:]).rstrip())


@contextmanager
def running(config: Path) -> Iterator[Daemon]:
    """A daemon that is ready; it is stopped at the end."""
    started = time.perf_counter()
    process = subprocess.Popen([PROGRAM, "serve", "--config", config], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        reached = wait_until_ready(process, started)
        # Nobody reads the log from now on, but it must not fill the pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Daemon(process, config.parent / "control.sock", reached)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def memory_of(pid: int) -> Memory:
    program = os.readlink(f"/proc/{pid}/exe")
    found, name, executable = Memory(), "", False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        # A mapping begins with its addresses, each of its figures with a key.
        key, *words = line.split(maxsplit=5)
        if not key.endswith(":"):
            name, executable = words[4] if len(words) > 4 else "", "x" in words[0]
        # Transparent huge pages keep a memfd's name and count as resident; reserved ones count nowhere here.
        elif key == "Rss:":
            found.resident += int(words[0]) * 1024
            found.memfd += int(words[0]) * 1024 if "memfd:" in name else 0
        elif key == "Anonymous:":
            found.anonymous += int(words[0]) * 1024
        elif key == "Pss:" and executable and name == program:
            found.text += int(words[0]) * 1024
    return found


def activity_of(pid: int) -> Activity:
    # The command may contain spaces; behind its bracket come the third field and the next ones.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    sleeps = [int(line.split()[1]) for status in Path(f"/proc/{pid}/task").glob("*/status")
              for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches")]
    return Activity(ticks / os.sysconf("SC_CLK_TCK"), sum(sleeps), len(sleeps))


def switch_often(daemon: Daemon) -> None:
    for number in range(SWITCHES):
        name = ROUND_TRIP[number % len(ROUND_TRIP)]
        words = [PROGRAM, "switch", name, "--control", daemon.control]
        finished = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if finished.returncode:
            raise Failure(f"the switch to {name} failed: {finished.stderr.strip()}")


def measure_memory(daemon: Daemon, bundle: Bundle, when: str) -> int:
    """Bytes beyond pool and index."""
    found = memory_of(daemon.process.pid)
    beyond = found.resident - found.memfd - bundle.index_bytes
    print(f"memory {when}: {beyond / MIB:.1f} MiB beyond pool and index; resident {found.resident / MIB:.1f} MiB, of "
          f"which pool and table {found.memfd / MIB:.1f} MiB, index {bundle.index_bytes / MIB:.1f} MiB; anonymous "
          f"{found.anonymous / MIB:.1f} MiB, code {found.text / MIB:.1f} MiB", flush=True)
    return beyond


def measure_idle(daemon: Daemon) -> float:
    """Share of one core."""
    # The last connection ends.
    time.sleep(1)
    before, started = activity_of(daemon.process.pid), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    after, passed = activity_of(daemon.process.pid), time.perf_counter() - started
    seconds = after.seconds - before.seconds
    print(f"idle: {seconds * 1e3:.0f} ms of CPU time in {passed:.0f} s (counted in steps of "
          f"{1000 / os.sysconf('SC_CLK_TCK'):.0f} ms); {(after.sleeps - before.sleeps) / passed:.2f} wake-ups a second "
          f"of {after.threads} threads", flush=True)
    return seconds / passed


def forget(bundle: Bundle) -> None:
    """The file's pages leave the page cache."""
    with bundle.path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start(config: Path, bundle: Bundle) -> dict[str, float]:
    forget(bundle)
    with running(config) as daemon:
        return daemon.reached


def pieces(bundle: Bundle) -> list[tuple[int, int, int]]:
    """A share for each thread: what is added to its place in memory for its place in the file; its begin and end."""
    share = math.ceil(bundle.start_bytes() / THREADS / PAGE) * PAGE
    cut = [(place, min(place + share, end)) for begin, end in bundle.extents for place in range(begin, end, share)]
    found, filled = [], 0
    for begin, end in cut:
        found.append((begin - filled, filled, filled + end - begin))
        filled += end - begin
    return found


def read_raw(reader: Pread, cut: list[tuple[int, int, int]]) -> dict[str, float]:
    started = time.perf_counter()
    list(reader.pool.map(reader.read, *zip(*cut, strict=True)))
    return {"raw read": time.perf_counter() - started}


def allocate() -> dict[str, float]:
    """Memory as the daemon's pool is made of it, where no huge pages are reserved."""
    started = time.perf_counter()
    descriptor = os.memfd_create("pool")
    try:
        os.ftruncate(descriptor, POOL_BYTES)
        with mmap.mmap(descriptor, POOL_BYTES) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE)
            memory.madvise(MADV_POPULATE_WRITE)
            return {"pool": time.perf_counter() - started}
    finally:
        os.close(descriptor)


def measure_starts(config: Path, bundle: Bundle, runs: int) -> float:
    """Seconds until ready, beyond those of reading base and first task."""
    reader = Pread(bundle.path, bundle.start_bytes(), mmap.MADV_HUGEPAGE)
    measures = [partial(start, config, bundle), partial(read_raw, reader, pieces(bundle)), allocate]
    order = random.Random(0)
    rounds = []
    for number in range(runs + 1):
        taken = {name: seconds for measure in order.sample(measures, len(measures))
                 for name, seconds in measure().items()}
        # The first round brings the program's code into memory.
        if number > 0:
            rounds.append(taken)
    titles = {
        "ready": "start to ready",
        "loaded": "of that, until the model was loaded",
        "raw read": f"raw read of the same {bundle.start_bytes() / MIB:.0f} MiB, {THREADS} threads",
        "pool": f"allocating {POOL_BYTES / MIB:.0f} MiB",
    }
    for name, title in titles.items():
        samples = [taken[name] * 1e3 for taken in rounds]
        median = statistics.median(samples)
        print(f"{title}: median {median:.0f} ms ({min(samples):.0f} to {max(samples):.0f})", flush=True)
    return statistics.median(taken["ready"] - taken["raw read"] for taken in rounds)


def verdict(what: str, value: float, limit: float, unit: str) -> str:
    return f"{what}: {value:.4g} {unit}, at most {limit:g} {unit}: {'reached' if value <= limit else 'missed'}"


def measure(path: Path, runs: int) -> None:
    bundle = read_bundle(path)
    print(f"{machine(path)}; huge pages of shared memory: {HUGE_PAGES.read_text().strip()}", flush=True)
    # Not beside the bundle: the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="synchromesh-") as folder:
        config = write_config(Path(folder), path)
        with running(config) as daemon:
            memory = [measure_memory(daemon, bundle, "after the start")]
            switch_often(daemon)
            memory.append(measure_memory(daemon, bundle, f"after {SWITCHES} switches"))
            idle = measure_idle(daemon)
        ready = measure_starts(config, bundle, runs)
    print()
    print(verdict("memory beyond pool and index", max(memory) / MIB, LIMIT_MEMORY / MIB, "MiB"))
    print(verdict("CPU when idle", idle * 100, LIMIT_IDLE * 100, "% of a core"))
    print(verdict("ready beyond reading base and first task", ready * 1e3, LIMIT_READY_SECONDS * 1e3, "ms"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the bundle is made, and kept; on a disk")
    parser.add_argument("--runs", type=int, default=9, help="starts that are measured")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error("--runs must be at least 1")
    if not os.access(PROGRAM, os.X_OK):
        parser.error(f"there is no program {PROGRAM}: run `cargo build --release`")
    try:
        if args.folder:
            args.folder.mkdir(parents=True, exist_ok=True)
            measure(make(args.folder.resolve()), args.runs)
            return
        with tempfile.TemporaryDirectory(prefix="synchromesh-bench-", dir=ROOT / "target") as folder:
            measure(make(Path(folder)), args.runs)
    except (Failure, OSError, subprocess.CalledProcessError) as reason:
        sys.exit(f"daemon: {reason}")


if __name__ == "__main__":
    main()
