"""What overlapping costs where a reward costs nothing: TRL's trainer and ours, step by step in turns.

    python benchmarks/rewards_free.py                          # a small policy is fine-tuned first; half an hour
    python benchmarks/rewards_free.py --run runs/finetune --rounds 4

Both trainers live in one process, each in its own thread, of which only one runs at any time: one step of TRL's, the
same step of ours, then the other way round. So a pair of steps does the same work, to the bit (models, prompts and
random numbers are equal, which is checked by the rewards of every completion), and a machine that is slower for a
minute is so for both. Where memory lies makes one of two equal trainers up to 4 % slower than the other for the life of
a process; so there are several processes, and who is made first changes. Printed is ours / TRL's: of each process the
median over its pairs of steps, by the clock and by the processor's time (of all threads), and the mean over the
processes with its standard error; and the same of TRL against itself, which tells what the noise is. Our pool is once
in threads and once in Ray actors. It fails where rewards differ or a mean by the clock is above the bar.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import report
from rewards import WORDS, Judge, trainer_of

TARGET = 1.02
WARM = 2


class Turns:
    """Lets one thread go at a time. The random state of each stays its own."""

    def __init__(self, names: tuple[str, str]) -> None:
        self._go = {name: threading.Semaphore(0) for name in names}
        self._done = threading.Semaphore(0)
        self._states: dict[str, Any] = {}
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self.processor: dict[str, list[float]] = {name: [] for name in names}

    def step(self, name: str) -> None:
        """One step of a side, from outside."""
        self._go[name].release()
        self._done.acquire()

    def wait(self, name: str) -> None:
        """In the side's thread: until it is its turn."""
        import torch

        self._states[name] = torch.get_rng_state(), random.getstate()
        self._done.release()
        self._go[name].acquire()
        torch.set_rng_state(self._states[name][0])
        random.setstate(self._states[name][1])

    def follow(self, name: str, trainer: Any) -> None:
        from transformers import TrainerCallback

        turns = self

        class Noted(TrainerCallback):
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                self.began = time.monotonic(), time.process_time()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                turns.seconds[name].append(time.monotonic() - self.began[0])
                turns.processor[name].append(time.process_time() - self.began[1])
                turns.wait(name)

        trainer.add_callback(Noted())


def paired(folder: str, sides: tuple[str, str], steps: int) -> dict[str, Any]:
    """Both sides' steps in turns."""
    import torch

    torch.set_num_threads(1)
    names = ("first", "second")
    turns, rewards, failed = Turns(names), {name: [] for name in names}, []

    def go(name: str, side: str) -> None:
        try:
            torch.set_num_threads(1)
            turns.wait(name)  # so that each is made while nothing else runs
            with trainer_of(folder, side, Judge(0.0), steps, rewards[name]) as trainer:
                turns.follow(name, trainer)
                turns.wait(name)
                trainer.train()
        except BaseException as error:
            failed.append(error)
        finally:
            turns._done.release()

    threads = [
        threading.Thread(target=go, args=(name, side), daemon=True) for name, side in zip(names, sides, strict=True)
    ]
    for thread in threads:
        thread.start()
        turns._done.acquire()
    for name in names:
        turns.step(name)  # is made
    for number in range(steps):
        for name in names if number % 2 == 0 else names[::-1]:
            turns.step(name)
            if failed:
                raise failed[0]
    assert len(set(map(len, turns.seconds.values()))) == 1, {name: len(v) for name, v in turns.seconds.items()}
    return {"seconds": turns.seconds, "processor": turns.processor, "equal": rewards["first"] == rewards["second"]}


def ratio(found: dict[str, list[float]]) -> float:
    """Second / first: the median over the pairs of steps."""
    pairs = zip(found["first"][WARM:], found["second"][WARM:], strict=True)
    return statistics.median(second / first for first, second in pairs)


def fresh(folder: str, sides: tuple[str, str], steps: int) -> dict[str, Any]:
    """`paired` in a process of its own: {clock, processor: second / first, seconds: of the first's step, equal}."""
    words = ["--run", folder, "--steps", str(steps), "--sides", *sides]
    # Memory that is freed stays with the process: else a step's time depends on when it goes back.
    kept = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
    done = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, check=False, env=os.environ | kept
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(folder: str, side: str, rounds: int, steps: int) -> dict[str, Any]:
    """Side / TRL, over processes; in every second one TRL is made last."""
    clock, processor, seconds, equal = [], [], [], True
    for number in range(rounds):
        backwards = number % 2 == 1
        found = fresh(folder, (side, "trl") if backwards else ("trl", side), steps)
        clock.append(1 / found["clock"] if backwards else found["clock"])
        processor.append(1 / found["processor"] if backwards else found["processor"])
        seconds.append(found["seconds"])
        equal &= found["equal"]
        print(f"{side} / TRL: {clock[-1]:.3f}", file=sys.stderr)

    def mean(values: list[float]) -> dict[str, Any]:
        return {
            "mean": round(statistics.mean(values), 4),
            "standard error": round(statistics.stdev(values) / len(values) ** 0.5, 4),
            "of each process": [round(each, 3) for each in values],
        }

    return {
        "pairs of steps": rounds * (steps - WARM), "seconds of a step": round(statistics.median(seconds), 3),
        "clock": mean(clock), "processor": mean(processor), "rewards equal": equal,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="finished run of jobs/finetune.py to align (default: a small one is made)")
    parser.add_argument("--rounds", type=int, default=8, help="processes of each comparison, at least 2")
    parser.add_argument("--steps", type=int, default=26, help="of each trainer in a process")
    parser.add_argument("--against", nargs="+", default=["ours", "ours actors", "trl"], help="compared with TRL")
    parser.add_argument("--sides", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sides:
        found = paired(given.run, tuple(given.sides), given.steps)
        told = {"clock": ratio(found["seconds"]), "processor": ratio(found["processor"])}
        print(json.dumps(told | {"seconds": statistics.median(found["seconds"]["first"]), "equal": found["equal"]}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.run or str(Path(temporary, "run"))
        if not given.run:
            from finetune_common import finetuned

            finetuned(folder, WORDS)
        figures = {side: compared(folder, side, given.rounds, given.steps) for side in given.against}
    missed = [f"{side}: rewards differ from TRL's" for side, each in figures.items() if not each["rewards equal"]]
    for side, each in figures.items():
        if side != "trl" and each["clock"]["mean"] > TARGET:
            missed.append(f"free when cheap: {side} {each['clock']['mean']} of TRL's step, at most {TARGET}")
    report("rewards_free", {"of TRL's step": figures, "missed": missed})
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
