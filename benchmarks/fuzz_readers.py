"""A million hostile inputs through every reader of reports and labels, the section parser, the splitter, the rules.

    python benchmarks/fuzz_readers.py                         # 1,000,000 cases on one core: 15 minutes if it is free
    python benchmarks/fuzz_readers.py --cases 100000 --cores 4 --seed 7
    python benchmarks/fuzz_readers.py --one "csv:4711"        # one case again, with its traceback

What a case is: for "sections", "sentences" and "assertion" one text; for a reader one file, or one small folder, of 1
to 5 rows in that reader's layout, made by a grammar and in three of five cases damaged afterwards (bytes flipped, cut,
repeated, put in; before or after packing); for label tables the same. The inputs come from tests/worlds/fuzz_world.py
and depend on seed, target and number alone.

A crash is anything but a good end or an error of raymedlt's own family: another exception, a dead process, a promise
that is broken (an accepted row without an id or text, a rejected one without a reason, a row that is lost or doubled, a
message that quotes a report). A hang is a case that takes more than `HANG_SECONDS` of processor time. Both bars are 0.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

from common import report

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "worlds"))

HANG_SECONDS = 10.0
"""Processor time of one case; the longest good one takes a fraction of a second."""

STUCK_SECONDS = 300.0
"""A process that says nothing for so long is killed: the case it was at counts as a hang."""

MEMORY_BYTES = 6 * 2**30
CHUNK = 1_000
SHARES = {
    "openi": 5, "mimic": 5, "rexgradient": 5, "padchest": 5, "chexpert_plus": 5, "csv": 5, "jsonl": 5, "parquet": 5,
    "label tables": 7, "audit labels": 3, "sections": 17, "sentences": 17, "assertion": 16,
}  # fmt: skip
"""Per cent of the cases."""


def run_cases(target: str, first: int, last: int, seed: int, at: Any, pipe: Connection) -> None:
    """Run cases `first` to `last` of a target in this process; says the number it is at in `at`, the rest in `pipe`."""
    from fuzz_world import CASES

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="raymedlt-fuzz-", dir=memory if memory.is_dir() else None))
    said: dict[str, Any] = {"cases": 0, "accepted": 0, "rejected": 0, "refused": 0, "crashes": [], "hangs": []}
    longest = (0.0, first)
    try:
        for number in range(first, last):
            at.value = number
            began = time.process_time()
            try:
                accepted, rejected = CASES[target](Random(f"{seed}:{target}:{number}"), folder / "case")
            except Exception as error:
                said["crashes"].append((number, _place(error)))
                accepted = rejected = 0
            seconds = time.process_time() - began
            longest = max(longest, (seconds, number))
            if seconds > HANG_SECONDS:
                said["hangs"].append(number)
            said["cases"] += 1
            said["accepted"] += accepted
            said["rejected"] += rejected
            said["refused"] += not accepted + rejected
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    pipe.send({**said, "longest": longest})


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{type(error).__name__} at " + " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)


class Fleet:
    """One process per core, each at a chunk of cases; a dead or stuck one is replaced behind the case it died of."""

    def __init__(self, seed: int, cores: int) -> None:
        self.seed, self.cores = seed, cores
        self.context = multiprocessing.get_context("fork")
        self.busy: dict[Connection, tuple[Any, Any, str, int, float]] = {}
        self.found: dict[str, Counter[str]] = {}
        self.longest: dict[str, tuple[float, int]] = {}
        self.crashes: list[str] = []
        self.hangs: list[str] = []

    def start(self, target: str, first: int, last: int) -> None:
        """Give a free core some cases."""
        here, there = self.context.Pipe(duplex=False)
        at = self.context.Value("q", first, lock=False)
        process = self.context.Process(target=run_cases, args=(target, first, last, self.seed, at, there))
        process.start()
        there.close()
        self.busy[here] = (process, at, target, last, time.monotonic())

    def collect(self) -> None:
        """Wait until a process ends, or for five seconds."""
        for pipe in wait(list(self.busy), timeout=5):
            assert isinstance(pipe, Connection)
            process, at, target, last, _ = self.busy.pop(pipe)
            try:
                said = pipe.recv()
            except EOFError:
                process.join()
                self._lost(self.crashes, f"the process ended with {process.exitcode}", target, at.value, last)
                continue
            process.join()
            self._count(target, said)
        for pipe, (process, at, target, last, began) in list(self.busy.items()):
            if time.monotonic() - began > STUCK_SECONDS:
                process.kill()
                process.join()
                del self.busy[pipe]
                self._lost(self.hangs, "stuck", target, at.value, last)

    def _lost(self, where: list[str], why: str, target: str, number: int, last: int) -> None:
        # The counts of the chunk's earlier cases died with it: they are run again by whoever asks for that one case.
        where.append(f"{target}:{number} {why}")
        self.found.setdefault(target, Counter())["cases"] += 1
        if number + 1 < last:
            self.start(target, number + 1, last)

    def _count(self, target: str, said: dict[str, Any]) -> None:
        numbers = self.found.setdefault(target, Counter())
        for key in ("cases", "accepted", "rejected", "refused"):
            numbers[key] += said[key]
        self.longest[target] = max(self.longest.get(target, (0.0, 0)), said["longest"])
        self.crashes += [f"{target}:{number} {place}" for number, place in said["crashes"]]
        self.hangs += [f"{target}:{number}" for number in said["hangs"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=240, help="stop after so long, and say how far it came")
    parser.add_argument("--only", nargs="*", default=list(SHARES), help="some of the targets")
    parser.add_argument("--one", help="TARGET:NUMBER, run again in this process")
    options = parser.parse_args()
    if options.one:
        from fuzz_world import CASES

        target, _, number = options.one.rpartition(":")
        with tempfile.TemporaryDirectory() as folder:
            print(CASES[target](Random(f"{options.seed}:{target}:{number}"), Path(folder) / "case"))
        return 0

    import fuzz_world  # noqa: F401  # once, before the processes are forked

    wanted = {target: options.cases * SHARES[target] // 100 for target in options.only}
    chunks = [
        (target, first, min(first + CHUNK, count))
        for target, count in wanted.items()
        for first in range(0, count, CHUNK)
    ]
    Random(options.seed).shuffle(chunks)  # so that a run that is stopped early has seen every target
    began, told, fleet = time.monotonic(), 0.0, Fleet(options.seed, options.cores)
    print(f"seed {options.seed}, {sum(wanted.values()):,} cases on {options.cores} core(s)", file=sys.stderr)
    while chunks or fleet.busy:
        in_time = time.monotonic() - began < 60 * options.minutes
        while chunks and in_time and len(fleet.busy) < options.cores:
            fleet.start(*chunks.pop())
        fleet.collect()
        if not in_time and not fleet.busy:
            break
        if time.monotonic() - told > 30:
            told = time.monotonic()
            done = sum(each["cases"] for each in fleet.found.values())
            print(f"{done:,} cases, {len(fleet.crashes)} crashes, {len(fleet.hangs)} hangs", file=sys.stderr)
    done = sum(each["cases"] for each in fleet.found.values())
    seconds, case = max((*fleet.longest[target], target) for target in fleet.longest)[0:3:2]
    report(
        "fuzz_readers",
        {
            "seed": options.seed,
            "cores": options.cores,
            "minutes": round((time.monotonic() - began) / 60, 1),
            "cases": done,
            "cases wanted": sum(wanted.values()),
            "by target": {
                target: {**fleet.found[target], "longest seconds": round(fleet.longest[target][0], 3)}
                for target in wanted
                if target in fleet.longest
            },
            "longest": {"seconds": round(seconds, 3), "case": f"{case}:{fleet.longest[case][1]}"},
            "crashes": len(fleet.crashes),
            "hangs": len(fleet.hangs),
            "crashed": fleet.crashes[:50],
            "hung": fleet.hangs[:50],
            "bars": "0 crashes, 0 hangs, every case run",
        },
    )
    return int(bool(fleet.crashes or fleet.hangs) or done < sum(wanted.values()))


if __name__ == "__main__":
    sys.exit(main())
