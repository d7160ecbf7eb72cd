"""Reward workers that die, hang, or die all: what becomes of the training.

    python benchmarks/reward_faults.py                     # makes a small fine-tuned model first; ten minutes
    python benchmarks/reward_faults.py --run runs/finetune

killed: 20 steps of GRPO on the phantom with rewards by two Ray actors, one of which is killed (SIGKILL) after every
step's rollouts began: the training must end, with the rewards of an undisturbed one to the bit, where there are any;
the rate of completions without a reward is printed.
hung: a reward that never returns for some completions: with a deadline the training goes on without them.
dead: rewards whose workers die at once from some step on: the training must stop with a clear error and a checkpoint,
and go on from it when the rewards work again, to the result of an undisturbed training.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import report

STEPS = 20
WORDS = (
    "--phantom.images=1000", "--phantom.test_images=32", "--training.seeing_epochs=1", "--training.epochs=1",
    "--generation.limit=32", "--generation.max_tokens=64", "--scoring.bootstrap=20",
)  # fmt: skip


class Exact:
    """Exact sentences; a worker says who it is, and may hang or die."""

    def __init__(self, folder: str, *, hangs: bool = False, dies: bool = False) -> None:
        self.folder, self.hangs, self.dies = folder, hangs, dies

    def __call__(self) -> Callable[..., Any]:
        from raymedlt.alignment.rewards import exact_f1

        Path(self.folder, str(os.getpid())).touch()

        def score(completions: Sequence[str], references: Sequence[Any]) -> list[tuple[float | None, ...]]:
            if self.dies and Path(self.folder, "die").exists():
                os._exit(1)
            if self.hangs and any(len(text) % 97 == 0 for text in completions):
                time.sleep(1e6)
            return [(value, 0.0) for value in exact_f1(completions, references)]

        return score


def trained(
    base: Any, folder: str, pool: Callable[[], Any], said: Callable[[dict[str, Any]], None], deadline: float = 120.0
) -> list[dict[str, Any]]:
    """STEPS steps; a line for each."""
    from raymedlt.alignment.account import history_of
    from raymedlt.alignment.config import AlignConfig, PolicyConfig, RewardsConfig, RolloutsConfig
    from raymedlt.alignment.learning import PolicyTask, learn
    from raymedlt.ledger import LedgerHandle
    from raymedlt.machine import Settings
    from raymedlt.storage import Storage

    config = AlignConfig(
        rollouts=RolloutsConfig(prompts=4, generations=4, max_tokens=64),
        rewards=RewardsConfig(use=("exact_f1",), deadline=deadline),
        training=PolicyConfig(steps=STEPS, micro_batch=16, checkpoint_steps=5, validation=16, rate=1e-3),
    )
    storage = Storage.of(folder)
    learn(PolicyTask(config, base, pool, Settings("cpu", "float32", 1)), LedgerHandle(storage), said=said)
    return history_of(storage)


def main() -> None:
    from raymedlt.alignment.pool import PoolSettings, RayRewardPool, ThreadRewardPool
    from raymedlt.errors import RaymedltError
    from raymedlt.finetuning.finished import open_finished
    from raymedlt.runtime import connect

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="finished run of jobs/finetune.py (default: a small one is made)")
    given = parser.parse_args()
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        if not given.run:
            from finetune_common import finetuned

            finetuned(root / "run", WORDS)
        base = open_finished(given.run or str(root / "run"))
        pids = root / "pids"
        pids.mkdir()
        silent: Callable[[dict[str, Any]], None] = lambda line: None  # noqa: E731
        plain = trained(base, str(root / "plain"), functools.partial(ThreadRewardPool, Exact(str(pids))), silent)
        for each in pids.iterdir():
            each.unlink()
        kills = 0

        def kill_one(line: dict[str, Any]) -> None:
            nonlocal kills
            alive = [int(each.name) for each in pids.iterdir() if Path("/proc", each.name).exists()]
            if alive:
                os.kill(max(alive), signal.SIGKILL)
                kills += 1

        settings = PoolSettings()
        with connect(3):
            make = functools.partial(RayRewardPool, Exact(str(pids)), least=2, most=2, settings=settings)
            killed = trained(base, str(root / "killed"), make, kill_one)
            same = [line["reward"] for line in killed] == [line["reward"] for line in plain]
            none = sum(line["none"] for line in killed) / len(killed)
            if len(killed) != STEPS or (none == 0 and not same):
                missed.append(f"killed: {len(killed)} steps, equal rewards: {same}")
            quick = PoolSettings(hung_seconds=3.0)
            make = functools.partial(RayRewardPool, Exact(str(pids), hangs=True), least=2, most=2, settings=quick)
            hung = trained(base, str(root / "hung"), make, silent, deadline=3.0)
        hung_none = sum(line["none"] for line in hung) / len(hung)
        if len(hung) != STEPS or not 0 < hung_none < 1:
            missed.append(f"hung: {len(hung)} steps, {hung_none:.3f} without a reward")

        def die_after_eight(line: dict[str, Any]) -> None:
            if line["step"] == 8:
                (pids / "die").touch()

        message = ""
        with connect(3):
            make = functools.partial(RayRewardPool, Exact(str(pids), dies=True), least=2, most=2, settings=settings)
            try:
                trained(base, str(root / "dead"), make, die_after_eight)
                missed.append("dead: the training went on")
            except RaymedltError as error:
                message = str(error)
            (pids / "die").unlink()
            lines: list[int] = []
            again = trained(base, str(root / "dead"), make, lambda line: lines.append(line["step"]))
        resumed = [line["reward"] for line in again] == [line["reward"] for line in plain]
        if not message or not resumed or lines[:1] != [6]:
            missed.append(f"dead: message '{message}', went on from {lines[:1]}, same result: {resumed}")
    report(
        "reward_faults",
        {
            "killed": {
                "steps": len(killed), "kills": kills, "deaths seen": sum(line["deaths"] for line in killed),
                "without a reward": round(none, 4), "rewards equal to the undisturbed ones": same,
                "seconds waited a step": round(sum(line["exposed_seconds"] for line in killed) / len(killed), 2),
            },
            "hung": {
                "steps": len(hung), "without a reward": round(hung_none, 4), "deadline, seconds": 3.0,
                "longest wait, seconds": round(max(line["exposed_seconds"] for line in hung), 2),
            },
            "dead": {"message": message, "went on from step": lines[:1], "ends as the undisturbed one": resumed},
            "missed": missed,
        },
    )  # fmt: skip
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
