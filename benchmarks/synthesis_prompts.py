"""Learnable prompt tokens: do they teach a frozen generator findings that it has never seen?

    python benchmarks/synthesis_prompts.py --generator runs/truth/generator --judge runs/truth-judge
    python benchmarks/synthesis_prompts.py ... --method textual_inversion

The generator learnt from phantoms with 20 kinds of findings (benchmarks/synthesis_truth.py leaves one). Here are
phantoms of NEW kinds, other patients, 120 of each to learn from and 60 held out. For each seed tokens are learnt,
shared ones and some per class, while the generator stays as it is. Before and after: the denoising loss on the held-out
images (same noise, same timesteps, so that the difference is paired), and the share of drawn images (same noise) in
which the judge (synthesis_judge.py) sees the finding. Fails if for any seed the loss does not fall, or the share does
not rise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import report
from synthesis_judge import Judge, judge_of

from raymedlt.checkpoint import Checkpoints
from raymedlt.images.phantom import FINDINGS, Finding, draw
from raymedlt.intervals import Z95, wilson
from raymedlt.seeds import generator as keyed
from raymedlt.storage import Storage
from raymedlt.synthesis.folder import load_generator
from raymedlt.synthesis.generator import Generator
from raymedlt.synthesis.learning import TrainingRows, encode_images, held_out_losses, learn
from raymedlt.synthesis.loop import LoopSettings
from raymedlt.synthesis.prompts import Described, prompt_of
from raymedlt.synthesis.sampler import draw as draw_images
from raymedlt.synthesis.sampler import prompt_embeddings
from raymedlt.synthesis.settings import LearningSettings, SamplerSettings

NEW = ("Cardiomegaly", "Pleural effusion", "Pacemaker", "Pulmonary edema")
"""Kinds of findings that are not among the 20 of the generator's phantoms."""
LEARNT, HELD_OUT, DRAWN, SIZE = 120, 60, 48, 64
PHANTOM_SEED = 77
SHARED, PER_CLASS, BATCH, RATE = 4, 8, 32, 1e-2
GUIDANCE = 3.0


def patients(part: str, each: int) -> list[tuple[str, Finding]]:
    """Image ids and findings: `each` patients with each new kind, moderate to severe."""
    found = []
    for name in NEW:
        sides = [side for side in FINDINGS[name].sides if side] or [""]
        for number in range(each):
            rng = keyed(PHANTOM_SEED, "new findings", part, name, number)
            side = sides[int(rng.integers(len(sides)))]
            image_id = f"{part}{name.replace(' ', '')}{number:04d}_0"
            found.append((image_id, Finding(name, side, float(rng.uniform(0.4, 1.0)))))  # type: ignore[arg-type]
    return found


def prompt(image_id: str, finding: Finding) -> str:
    """As the job words it."""
    described = Described(finding.name, finding.side, finding.severity)
    return prompt_of([described], seed=PHANTOM_SEED, key=(image_id, 0), varied=False)


def rows_of(generator: Generator, chosen: list[tuple[str, Finding]]) -> TrainingRows:
    """Phantoms drawn and encoded."""
    images = np.stack([draw([finding], seed=PHANTOM_SEED, image_id=name, size=SIZE) for name, finding in chosen])
    mean, std = encode_images(generator, images)
    return TrainingRows(
        mean, std, [[prompt(*each)] for each in chosen], [(finding.name,) for _, finding in chosen]
    )  # fmt: skip


def drawn(generator: Generator) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Images for prompts of each new kind, from the same noise whatever was learnt."""
    chosen = patients("drawn", DRAWN)
    names = [finding.name for _, finding in chosen]
    prompts = [generator.worded(prompt(*each), (name,)) for each, name in zip(chosen, names, strict=True)]
    settings = SamplerSettings(guidance=GUIDANCE, precision="bfloat16")
    embedded = prompt_embeddings(generator, ["", *prompts], batch=settings.batch, precision="bfloat16")
    images = []
    for start in range(0, len(chosen), settings.batch):
        part = slice(start, min(start + settings.batch, len(chosen)))
        found = draw_images(
            generator, torch.stack([embedded[each] for each in prompts[part]]), embedded[""][None],
            list(range(part.start, part.stop)), settings, [(name,) for name in names[part]],
        )  # fmt: skip
        images.append(found.images_BSS)
    return np.concatenate(images), names


def agreement(judge: Judge, generator: Generator) -> dict[str, list[float]]:
    """Share of the drawn images that show what they were drawn for, with its interval: all, and per kind."""
    images, names = drawn(generator)
    shown_BC = judge.shows(images)
    shown = np.array([shown_BC[row, judge.classes.index(name)] for row, name in enumerate(names)])
    parts = {"all": shown} | {name: shown[np.array(names) == name] for name in NEW}
    return {
        name: [round(float(part.mean()), 3), *(round(each, 3) for each in wilson(int(part.sum()), len(part)))]
        for name, part in parts.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", required=True, help="folder of a generator of 64 pixels")
    parser.add_argument("--judge", required=True, help="folder of the judge's run; trained there if it is missing")
    parser.add_argument("--method", default="tokens", choices=["tokens", "textual_inversion", "lora"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    judge = judge_of(arguments.judge)
    frozen = load_generator(arguments.generator)
    learnt, held_out = rows_of(frozen, patients("learnt", LEARNT)), rows_of(frozen, patients("held", HELD_OUT))
    before = held_out_losses(frozen, held_out, seed=PHANTOM_SEED, precision="bfloat16")
    first = agreement(judge, frozen)
    found: dict[str, Any] = {"before": {"loss": round(float(before.mean()), 5), "agreement": first}}
    failed = []
    for seed in range(arguments.seeds):
        generator = load_generator(arguments.generator)
        own = LearningSettings(method=arguments.method, shared=SHARED, per_class=PER_CLASS, class_names=NEW)
        rate = RATE if arguments.method != "lora" else 1e-3
        loop = LoopSettings(
            steps=arguments.steps, batch=BATCH, rate=rate, warmup_steps=20, ema=0.98, seed=seed,
            threads=arguments.threads, precision="bfloat16",
        )  # fmt: skip
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as kept:
            learn(generator, learnt, own, loop, Checkpoints(Storage.of(kept)))
        seconds = time.perf_counter() - began
        after = held_out_losses(generator, held_out, seed=PHANTOM_SEED, precision="bfloat16")
        fall = before - after
        error = Z95 * float(fall.std(ddof=1)) / len(fall) ** 0.5
        now = agreement(judge, generator)
        interval = [round(float(each), 5) for each in (fall.mean(), fall.mean() - error, fall.mean() + error)]
        found[f"seed {seed}"] = {
            "loss": round(float(after.mean()), 5), "fall": interval, "agreement": now, "seconds": round(seconds),
        }  # fmt: skip
        if interval[1] <= 0:
            failed.append(f"seed {seed}: the loss does not fall")
        if now["all"][0] <= first["all"][0]:
            failed.append(f"seed {seed}: the share does not rise")
    report("synthesis_prompts", {"method": arguments.method, "steps": arguments.steps, **found, "failed": failed})
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
