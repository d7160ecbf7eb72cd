"""Rewards beside rollouts: what overlapping hides, what it costs, and what the pool's cache gains.

    python benchmarks/rewards.py                          # all parts; half an hour on two quiet cores
    python benchmarks/rewards.py --parts cache dispatch

overlap: GRPO of a small fine-tuned policy on the phantom: TRL's own trainer, which asks for rewards after generation,
against ours, on the same model and seeds. The reward is a remote judge: it waits, one completion after another, and
uses no processor. Its time is a share of the time of generation (0, 25, 100 %). Ours generates in one batch and in
micro-batches; what micro-batches cost by themselves is printed too, and what ours costs without a reward, which
rewards_free.py measures more finely. Completions and rewards of TRL and of ours in one
batch must be equal, and so must all rewards of a completion wherever it was computed.
processor: the same with the cluster reward (MiniLM, all computed on the processor), in threads and in Ray actors.
dispatch: least-loaded against random (as verl spreads them) on uneven costs: seconds until all are done.
cache: the cluster reward on a stream of completions made of real OpenI sentences, as one process computes it, against
the plain path, which embeds every sentence of every completion; rewards must be equal.

It fails where a bar of TARGETS is missed or results differ.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common import report

TARGETS = {"exposed": 0.10, "step": 1.05, "cache": 5.0}
SIDES = ("trl", "ours", "ours micro")
COSTS = (0.0, 0.25, 1.0)
STEPS, WARM = 8, 2
PROMPTS, GENERATIONS, MICRO_BATCHES = 12, 8, 12
WORDS = (
    "--phantom.images=3000", "--phantom.test_images=64", "--training.seeing_epochs=4", "--training.epochs=3",
    "--generation.limit=64", "--scoring.bootstrap=20",
)  # fmt: skip


class Judge:
    """A remote judge: seconds for each completion, one after another, without using the processor."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> Callable[..., Any]:
        from raymedlt.alignment.rewards import exact_f1

        def score(completions: Sequence[str], references: Sequence[Any]) -> list[tuple[float | None, ...]]:
            time.sleep(self.seconds * len(completions))
            return list(zip(exact_f1(completions, references), strict=True))

        return score


@contextlib.contextmanager
def trainer_of(
    folder: str, side: str, make: Any, steps: int, rewards: list[Any], waited: Any = None, generated: Any = None
) -> Iterator[Any]:
    """TRL's trainer or ours of a fine-tuned model, whose rewards, and seconds, are noted for each step."""
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    from raymedlt.alignment.config import AlignConfig, PolicyConfig, RolloutsConfig
    from raymedlt.alignment.learning import _asked, _ordered, _references, arguments, lora_modules
    from raymedlt.alignment.policy import PolicyProcessor
    from raymedlt.alignment.pool import RayRewardPool, ThreadRewardPool
    from raymedlt.alignment.trainer import OverlappedGRPOTrainer
    from raymedlt.finetuning.finished import open_finished
    from raymedlt.machine import Settings
    from raymedlt.runtime import connect
    from raymedlt.schema import TRAIN

    waited, generated = [] if waited is None else waited, [] if generated is None else generated
    base = open_finished(folder)
    writer, studies = base.writer("cpu"), base.studies()
    count = PROMPTS * GENERATIONS
    config = AlignConfig(
        rollouts=RolloutsConfig(prompts=PROMPTS, generations=GENERATIONS, max_tokens=96),
        training=PolicyConfig(steps=steps, micro_batch=count // 3, rate=1e-4),
    )
    references = _references(studies)
    common = {
        "model": writer.model,
        "args": GRPOConfig(**arguments(config, Settings("cpu", "bfloat16", 1), tempfile.mkdtemp())),
        "train_dataset": _asked(_ordered(studies, TRAIN, 0), studies, writer),
        "processing_class": PolicyProcessor(writer.processing, base.pixels()),
        "peft_config": LoraConfig(
            r=8, lora_alpha=32, lora_dropout=0.0, target_modules=lora_modules(writer.model, ("q_proj", "v_proj"))
        ),
    }
    if side == "trl":
        score = make()

        def reward(completions: Any, reference: Sequence[int], **kwargs: Any) -> list[float | None]:
            began = time.monotonic()
            found = score([each[0]["content"] for each in completions], [references[row] for row in reference])
            waited.append(time.monotonic() - began)
            rewards.append([row[0] for row in found])
            values: list[float | None] = rewards[-1]
            return values

        trainer = GRPOTrainer(**common, reward_funcs=[reward])
        plain = trainer._generate_single_turn

        @functools.wraps(plain)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            try:
                return plain(*args, **kwargs)
            finally:
                generated.append(time.monotonic() - began)

        trainer._generate_single_turn = timed
        yield trainer
        return

    def told(rollouts: Any) -> None:
        waited.append(rollouts.exposed_seconds)
        generated.append(rollouts.generation_seconds)
        rewards.append([row[0] for row in rollouts.rewards])

    with contextlib.ExitStack() as stack:
        if "actors" in side:
            stack.enter_context(connect(2))
            pool: Any = stack.enter_context(RayRewardPool(make, least=1, most=1))
        else:
            pool = stack.enter_context(ThreadRewardPool(make, 1))
        yield OverlappedGRPOTrainer(
            **common, pool=pool, reward_names=["reward"], references=references,
            rollout_batch=count // MICRO_BATCHES if "micro" in side else 0, told=told,
        )  # fmt: skip


def train(folder: str, side: str, seconds: float, clusters: str, steps: int) -> dict[str, Any]:
    """Some steps of one side; seconds of each step, of its generation and of waiting; rewards."""
    import torch
    from transformers import TrainerCallback

    from raymedlt.alignment.scoring import Rewards

    torch.set_num_threads(1)
    ended, rewards, waited, generated = [time.monotonic()], [], [], []

    class Noted(TrainerCallback):
        """Seconds of the steps."""

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            ended[-1] = ended[-1] if len(ended) > 1 else time.monotonic()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ended.append(time.monotonic())

    make: Any = Rewards(("cluster_f1_strict",), clusters) if clusters else Judge(seconds)
    with trainer_of(folder, side, make, steps, rewards, waited, generated) as trainer:
        trainer.add_callback(Noted())
        trainer.train()
    lasted = [after - before for before, after in itertools.pairwise(ended)]
    return {
        "seconds": lasted[WARM:], "generation": generated[WARM:], "waited": waited[WARM:], "rewards": rewards,
    }  # fmt: skip


def fresh(*words: str) -> dict[str, Any]:
    """`train` in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def side(folder: str, name: str, seconds: float = 0.0, clusters: str = "") -> dict[str, Any]:
    """A side's figures: medians."""
    return fresh("--side", name, "--folder", folder, "--seconds", str(seconds), "--clusters", clusters)


def medians(found: dict[str, Any]) -> dict[str, float]:
    return {name: round(statistics.median(found[name]), 4) for name in ("seconds", "generation", "waited")}


def overlap(folder: str, rounds: int) -> tuple[dict[str, Any], list[str]]:
    """The remote judge. A side's steps with a judge are compared to its steps without one in the same round."""
    missed: list[str] = []
    found: list[dict[str, list[dict[str, Any]]]] = []
    for number in range(rounds):
        turn: dict[str, list[dict[str, Any]]] = {}
        for name in SIDES if number % 2 == 0 else SIDES[::-1]:
            free = side(folder, name)
            each = medians(free)["generation"] / (PROMPTS * GENERATIONS)
            turn[name] = [free, *(side(folder, name, cost * each) for cost in COSTS[1:])]
        found.append(turn)

    turns = [{name: [medians(each) for each in runs] for name, runs in turn.items()} for turn in found]

    def middle(of: tuple[str, int, str], over: tuple[str, int, str] | None = None) -> float:
        """Median over the rounds of a figure (side, place of the cost, name), or of its ratio to another one."""
        values = [
            turn[of[0]][of[1]][of[2]] / (turn[over[0]][over[1]][over[2]] if over else 1.0) for turn in turns
        ]  # fmt: skip
        return round(statistics.median(values), 4)

    if any(turn["ours"][0]["rewards"] != turn["trl"][0]["rewards"] for turn in found):
        missed.append("rewards of TRL and of ours differ")
    rows = []
    for (place, cost), name in itertools.product(enumerate(COSTS[1:], 1), SIDES):
        step = (name, place, "seconds")
        row = {
            "reward / generation": cost, "side": name, "seconds": middle(step),
            "of the step without a reward": middle(step, (name, 0, "seconds")),
            "exposed share of the step": middle((name, place, "waited"), step),
            "of TRL's step": middle(step, ("trl", place, "seconds")),
        }  # fmt: skip
        rows.append(row)
        if any(turn[name][place]["rewards"] != turn[name][0]["rewards"] for turn in found):
            missed.append(f"{name} at {cost}: rewards differ from those without a wait")
        for what, target in (("exposed share of the step", "exposed"), ("of the step without a reward", "step")):
            if name != "trl" and row[what] > TARGETS[target]:
                missed.append(f"{name} at {cost}: {what} {row[what]}, at most {TARGETS[target]}")
    figures = {
        "completions a step": PROMPTS * GENERATIONS, "micro-batches": MICRO_BATCHES, "rounds": rounds,
        "seconds a step without a reward": {name: middle((name, 0, "seconds")) for name in SIDES},
        "seconds of generation": {name: middle((name, 0, "generation")) for name in SIDES},
        "ours / TRL without a reward": middle(("ours", 0, "seconds"), ("trl", 0, "seconds")),
        "micro-batched generation / one batch": middle(("ours micro", 0, "generation"), ("ours", 0, "generation")),
        "with a judge": rows,
    }  # fmt: skip
    return figures, missed


def processor(folder: str, clusters: str) -> tuple[dict[str, Any], list[str]]:
    """The cluster reward, all computed here."""
    found = {name: side(folder, name, 0.0, clusters) for name in ("trl", "ours", "ours actors", "ours micro actors")}
    missed = []
    for name in ("ours", "ours actors"):
        if found[name]["rewards"] != found["trl"]["rewards"]:
            missed.append(f"cluster rewards of {name} differ from TRL's")
    return {name: medians(each) for name, each in found.items()}, missed


def dispatch(workers: int = 4, count: int = 64) -> tuple[dict[str, Any], list[str]]:
    """Uneven costs: a tenth of the completions cost ten times as much."""
    from raymedlt.alignment.pool import PoolSettings, ThreadRewardPool

    rng = random.Random(0)
    texts = [f"{number} " + "word " * (200 if rng.random() < 0.1 else 20) for number in range(count)]

    def make() -> Any:
        def score(completions: Sequence[str], references: Sequence[Any]) -> list[tuple[float]]:
            time.sleep(sum(len(each) for each in completions) * 1e-4)
            return [(float(len(each)),) for each in completions]

        return score

    references = [""] * count
    took: dict[str, list[float]] = {"least-loaded": [], "random": []}
    for number in range(3):
        with ThreadRewardPool(make, workers, PoolSettings(batch=4)) as pool:
            pool.gather(pool.submit(["warm"] * 1, [""]))
            began = time.monotonic()
            first = pool.gather(pool.submit(texts, references))
            took["least-loaded"].append(time.monotonic() - began)
        pools = [ThreadRewardPool(make, 1, PoolSettings(batch=4)) for _ in range(workers)]
        for each in pools:
            each.gather(each.submit(["warm"], [""]))
        owners = [random.Random(1000 * number + row).randrange(workers) for row in range(count)]
        began = time.monotonic()
        tickets = [pools[owner].submit([text], [""])[0] for owner, text in zip(owners, texts, strict=True)]
        second = [pools[owner].gather([ticket])[0] for owner, ticket in zip(owners, tickets, strict=True)]
        took["random"].append(time.monotonic() - began)
        for each in pools:
            each.close()
    ideal = sum(map(len, texts)) * 1e-4 / workers
    figures = {name: round(statistics.median(each) / ideal, 3) for name, each in took.items()}
    return {"workers": workers, "seconds / the least possible": figures}, [] if first == second else ["values differ"]


def cache(reports: int = 600, generations: int = 16, plainly: int = 1200) -> tuple[dict[str, Any], list[str]]:
    """Real sentences: each held-out report is drawn several times with some of its sentences changed for others'.

    As many completions as a run of jobs/align.py draws. Ours goes first, and pays for the assertion rules of sentences
    that are new; the plain path, on the first `plainly` completions, finds those done.
    """
    from reward_common import drawn, held_out, reward_model, sentences

    from raymedlt.alignment.rewards import RewardModel, cluster_f1_strict
    from raymedlt.embedding.encoder import Encoder

    train_rows, test = held_out()
    model = reward_model(train_rows)
    rows = test.to_pylist()[:reports]
    every = [each for row in rows for each in sentences(row)[0]]
    texts, references = [], []
    for row in rows:
        own = sentences(row)[0]
        for number in range(generations):
            rng = drawn("cache", row["report_id"], number)
            said = [each if rng.random() < 0.6 else rng.choice(every) for each in own]
            texts.append(" ".join(said))
            references.append({"findings": row["findings"], "impression": "", "language": "en"})
    step = 64

    def timed(score: Callable[..., Any], count: int | None = None) -> tuple[float, list[Any]]:
        """Seconds for each completion, and the rewards."""
        began, values = time.monotonic(), []
        for start in range(0, len(texts[:count]), step):
            values += score(texts[:count][start : start + step], references[:count][start : start + step])
        return (time.monotonic() - began) / len(values), values

    import torch

    torch.set_num_threads(1)
    encoder = Encoder()
    plain = RewardModel(model.models["findings"], model.models["impression"], remembered=0)
    for each in plain.maps.values():
        each._known = {}  # so that every sentence is embedded, as the plain path does it
    warm = "no focal consolidation"
    encoder.encode([warm])
    cluster_f1_strict([warm], [references[0]], model)
    cluster_f1_strict([warm], [references[0]], plain)
    ours, values = timed(lambda c, r: cluster_f1_strict(c, r, model))
    hits, misses = model.maps["findings"].hits, model.maps["findings"].misses
    again, _ = timed(lambda c, r: cluster_f1_strict(c, r, model))
    theirs, _ = timed(lambda c, r: cluster_f1_strict(c, r, plain), plainly)
    forgetful = RewardModel(model.models["findings"], model.models["impression"], remembered=0)
    without, same = timed(lambda c, r: cluster_f1_strict(c, r, forgetful), plainly)
    embedded = sum(len(t.split(". ")) for t in texts)
    gain = theirs / ours
    missed = (
        [] if gain >= TARGETS["cache"] else [f"cache: {gain:.1f} times the plain path, at least {TARGETS['cache']}"]
    )
    if same != values[:plainly]:
        missed.append("rewards with and without memory differ")
    figures = {
        "completions": len(texts), "sentences": embedded, "distinct": len({s for t in texts for s in t.split(". ")}),
        "completions a second and core": {
            "first pass": round(1 / ours), "second pass": round(1 / again),
            "dictionary, no memory": round(1 / without), "every sentence embedded": round(1 / theirs),
        },
        "gain of the first pass": round(gain, 2), "gain of the second pass": round(theirs / again, 2),
        "sentences remembered": hits, "sentences embedded": misses,
    }  # fmt: skip
    return figures, missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("overlap", "processor", "dispatch", "cache")
    parser.add_argument("--parts", nargs="+", default=list(parts), choices=parts)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", help="finished run of jobs/finetune.py to align (default: a small one is made)")
    for name in ("side", "folder", "clusters"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(train(given.folder, given.side, given.seconds, given.clusters, STEPS + WARM)))
        return
    figures: dict[str, Any] = {}
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.run or str(Path(temporary, "run"))
        if {"overlap", "processor"} & set(given.parts):
            from finetune_common import finetuned

            if not given.run:
                finetuned(folder, WORDS)
        if "overlap" in given.parts:
            figures["overlap"], found = overlap(folder, given.rounds)
            missed += found
        if "processor" in given.parts:
            from raymedlt.alignment.running import cluster_phantom
            from raymedlt.finetuning.finished import open_finished

            clusters = str(Path(temporary, "clusters"))
            cluster_phantom(open_finished(folder), Path(clusters))
            figures["processor"], found = processor(folder, clusters)
            missed += found
    if "dispatch" in given.parts:
        figures["dispatch"], found = dispatch()
        missed += found
    if "cache" in given.parts:
        figures["cache"], found = cache()
        missed += found
    report("rewards", {**figures, "missed": missed})
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
