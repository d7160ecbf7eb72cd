"""Drawing with raymedlt against a plain diffusers loop: the same rows, the same generator, the same cores, in turn.

    python benchmarks/synthesis_speed.py
    python benchmarks/synthesis_speed.py --precision bfloat16 --threads 2
    python benchmarks/synthesis_speed.py --rows 32 --steps 2 --rounds 1 --one_by_one 4    # a try

The generator is the small one at its default sizes with random weights: they draw noise, at the cost of a trained one.
Prompts come from a plan on phantom labels and partly repeat. The ways, in changing order, `--rounds` times:

actor    raymedlt as the job runs it: shards through one Ray actor, Parquet and markers in the output folder
process  the same shards in this process
loop     diffusers' StableDiffusionPipeline from the same folder, in batches of the same size, PNG files
single   the same pipeline, one prompt at a time, as it is mostly written; the first --one_by_one rows only

All with one solver, number of steps, guidance, precision, attention and number of threads. A rate counts from the end
of the first shard (of the first image for `single`) to the end of the last; start-up is listed apart. The bars are on
the clock and want a quiet machine; the same by processor time says what a busy one hides, but not what waiting costs.

The images must agree: `actor` with `process` to the byte; `loop` and `single` with `process` to MOST_APART grey levels
in float32 (sums in another order may round a grey level the other way; in bfloat16, a mean: the pipeline keeps latents
in bfloat16, raymedlt in float32). The pipeline draws its own noise from each row's torch.Generator; that it is the
noise of `raymedlt.synthesis.sampler.draw` is checked to the bit, so that nobody's loop has to be given latents. What
agreement means is seen from the difference between neighbouring rows.

Fails if images disagree, or if the median of actor / loop is below 0.95 or that of actor / single below 1.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from common import report
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from raymedlt.images.phantom_cohort import cohort
from raymedlt.ledger import Ledger
from raymedlt.machine import Settings
from raymedlt.progress import Progress
from raymedlt.runtime import connect, private_by_default, run_shards
from raymedlt.shards import ShardFunction
from raymedlt.storage import Storage
from raymedlt.synthesis.drawing import DRAW, Drawer, MakeDrawer, write_plan
from raymedlt.synthesis.folder import load_generator, save_generator
from raymedlt.synthesis.generator import autocast
from raymedlt.synthesis.plan import Plan, PlanSettings, make_plan
from raymedlt.synthesis.prompts import vocabulary
from raymedlt.synthesis.sampler import draw, prompt_embeddings
from raymedlt.synthesis.settings import SamplerSettings, SmallSizes
from raymedlt.synthesis.small import build_small

LEAST_OF_LOOP, LEAST_OF_SINGLE = 0.95, 1.0
MOST_APART = {"float32": ("largest", 2.0), "bfloat16": ("mean", 2.0)}
"""Grey levels between an image of the pipeline and raymedlt's: which figure of the two, and how much."""
COHORT, TARGETS, MANY = 4000, 4, 10_000
Rows = list[dict[str, Any]]


class End(NamedTuple):
    """Where a way stood when a shard was done."""

    images: int
    """So far."""
    at: float
    cpu: float
    """Processor seconds of the process that draws."""


class Timed(NamedTuple):
    """What one way did in one round."""

    images: list[bytes]
    """PNG files in the order of the plan."""
    ends: list[End]
    start_up: dict[str, float]
    """Seconds."""
    encoder: dict[str, float]
    """Work of the text encoder, of all rows."""

    @property
    def rate(self) -> float:
        """Images per second, start-up and the first shard left out."""
        first, last = self.ends[0], self.ends[-1]
        return (last.images - first.images) / (last.at - first.at)

    @property
    def cpu_rate(self) -> float:
        """The same per second of processor time."""
        first, last = self.ends[0], self.ends[-1]
        return (last.images - first.images) / (last.cpu - first.cpu)


@dataclass(frozen=True)
class Clocked:
    """MakeDrawer with a clock: each process writes a line of JSON once it is ready and after every shard."""

    make: MakeDrawer
    folder: str

    def __call__(self) -> ShardFunction:
        began = time.time()
        drawer = self.make()
        clock = Path(self.folder) / f"{os.getpid()}.jsonl"
        clock.parent.mkdir(parents=True, exist_ok=True)

        def note(rows: int) -> None:
            line = {"rows": rows, "began": began, "at": time.time(), "cpu": time.process_time(), "bytes": resident()}
            with clock.open("a") as file:
                file.write(json.dumps(line) + "\n")

        def clocked(shard: str) -> dict[str, Any]:
            summary = drawer(shard)
            note(summary["rows"])
            return summary

        note(0)
        return clocked


def clocks(folder: Path) -> list[list[dict[str, Any]]]:
    """What each process noted."""
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(folder.glob("*.jsonl"))]


def resident() -> int:
    """Bytes of memory that this process had at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


# What is drawn


def phantom_labels() -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Labels of a phantom cohort, without pixels: [N, C] and the classes, the commonest first."""
    drawn = cohort(COHORT, seed=0, test_images=0, test_positives=0, texts=False)
    sets = drawn.table["labels"].to_pylist()
    return np.array([[name in names for name in drawn.classes] for names in sets], np.float32), drawn.classes


def planned(rows: int, checkpoint_hash: str) -> Plan:
    """A plan of so many rows, a multiple of TARGETS, for the rarest classes of a phantom cohort."""
    labels, classes = phantom_labels()
    settings = PlanSettings(classes=list(classes[-TARGETS:]), count=COHORT + rows, cap=rows // TARGETS)
    return make_plan(labels, None, classes, settings, seed=0, checkpoint_hash=checkpoint_hash)


def save_random(folder: str, sizes: SmallSizes) -> str:
    """A generator with random weights, saved; its hash."""
    return save_generator(build_small(vocabulary(phantom_labels()[1]), sizes, 0), folder)


def opened(folder: Path) -> Ledger:
    """A ledger in a new folder."""
    return Ledger.open(Storage.of(str(folder)), config_hash="benchmark", config={}, data_hash="benchmark")


@dataclass(frozen=True)
class Bench:
    """The same for every way."""

    generator: str
    plan: Plan
    sampling: SamplerSettings
    machine: Settings
    one_by_one: int
    rows: Rows = field(repr=False)

    @property
    def shard_rows(self) -> int:
        return self.sampling.batch * self.sampling.shard_batches

    def maker(self, ledger: Ledger) -> MakeDrawer:
        """As the job makes it."""
        return MakeDrawer(ledger.worker(), self.generator, None, self.sampling, self.machine, self.machine.threads)


class Encoded:
    """Counts and times the calls of a text encoder from now on."""

    def __init__(self, encoder: Any) -> None:
        self.figures = {"calls": 0.0, "prompts": 0.0, "seconds": 0.0}
        self._began = 0.0
        encoder.register_forward_pre_hook(self._before, with_kwargs=True)
        encoder.register_forward_hook(self._after)

    def _before(self, _: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = positional[0] if positional else named["input_ids"]
        self.figures["calls"] += 1
        self.figures["prompts"] += len(ids)
        self._began = time.perf_counter()

    def _after(self, *_: Any) -> None:
        self.figures["seconds"] += time.perf_counter() - self._began


# The ways


def on_actor(bench: Bench, folder: Path) -> Timed:
    """raymedlt through one Ray actor, as running.py does it."""
    with opened(folder) as ledger:
        shards = write_plan(bench.plan, bench.shard_rows, ledger)
        with connect(1) as ray:
            began = time.time()
            run_shards(
                DRAW, list(shards), None, progress=Progress(io.StringIO()), workers=1, ledger=ledger,
                cpus_per_worker=float(bench.machine.threads),
                actor_factory=Clocked(bench.maker(ledger), str(folder / ".clock")),
                unit="images", units=shards.__getitem__,
            )  # fmt: skip
            ended = time.time()
        images = _images(ledger.storage, shards)
    (lines,) = clocks(folder / ".clock")
    ready = lines[0]
    start_up = {
        "connect to Ray": ray.seconds,
        "until the actor is there": ready["began"] - began,
        "load the generator": ready["at"] - ready["began"],
        "after the last shard": ended - lines[-1]["at"],
    }
    return Timed(images, _ends([End(line["rows"], line["at"], line["cpu"]) for line in lines[1:]]), start_up, {})


def in_process(bench: Bench, folder: Path) -> Timed:
    """raymedlt in this process."""
    with opened(folder) as ledger:
        shards = write_plan(bench.plan, bench.shard_rows, ledger)
        began = time.perf_counter()
        drawer = bench.maker(ledger)()
        assert isinstance(drawer, Drawer)
        start_up = {"load the generator": time.perf_counter() - began}
        encoded = Encoded(drawer.generator.text_encoder)
        ends = [End(drawer(shard)["rows"], time.perf_counter(), time.process_time()) for shard in shards]
        images = _images(ledger.storage, shards)
    return Timed(images, _ends(ends), start_up, encoded.figures)


def _ends(shards: list[End]) -> list[End]:
    """With the images so far in place of each shard's own."""
    totals = np.cumsum([end.images for end in shards]).tolist()
    return [end._replace(images=total) for total, end in zip(totals, shards, strict=True)]


def _images(storage: Storage, shards: Iterable[str]) -> list[bytes]:
    tables = storage.read_tables([f"_work/drawn/{shard}.parquet" for shard in shards], ["image"])
    return [cell["bytes"] for cell in tables["image"].to_pylist()]


def plain_loop(bench: Bench, folder: Path) -> Timed:
    """diffusers' pipeline in batches."""
    return _plainly(bench, folder, bench.rows, bench.sampling.batch, bench.shard_rows)


def one_by_one(bench: Bench, folder: Path) -> Timed:
    """diffusers' pipeline, an image at a time."""
    return _plainly(bench, folder, bench.rows[: bench.one_by_one], 1, 1)


def _plainly(bench: Bench, folder: Path, rows: Rows, batch: int, every: int) -> Timed:
    """The loop as a user writes it; `every` so many images it looks at the clock."""
    began = time.perf_counter()
    pipeline: Any = StableDiffusionPipeline.from_pretrained(
        bench.generator, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        use_safetensors=True, local_files_only=True,
    )  # fmt: skip
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    pipeline.set_progress_bar_config(disable=True)
    folder.mkdir()
    start_up = {"load the generator": time.perf_counter() - began}
    encoded = Encoded(pipeline.text_encoder)
    ends = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        with autocast("cpu", bench.machine.precision):
            images = pipeline(
                [row["prompt"] for row in part],
                num_inference_steps=bench.sampling.steps,
                guidance_scale=bench.sampling.guidance,
                generator=[torch.Generator().manual_seed(row["seed"]) for row in part],
            ).images
        for row, image in zip(part, images, strict=True):
            image.save(folder / f"{row['row_id']}.png", compress_level=6, optimize=False)
        if (start + len(part)) % every == 0:
            ends.append(End(start + len(part), time.perf_counter(), time.process_time()))
    files = [(folder / f"{row['row_id']}.png").read_bytes() for row in rows]
    return Timed(files, ends, start_up, encoded.figures)


WAYS: dict[str, Callable[[Bench, Path], Timed]] = {
    "actor": on_actor, "process": in_process, "loop": plain_loop, "single": one_by_one,
}  # fmt: skip


# Agreement


def agreement(bench: Bench, found: dict[str, Timed]) -> dict[str, Any]:
    """How far the images of the ways are apart, in grey levels; "disagree" lists what is too far."""
    base = _pixels(found["process"].images)
    own, wrong = found["process"].images, []
    equal = sum(a == b for a, b in zip(found["actor"].images, own, strict=True))
    if equal != len(own):
        wrong.append("actor and process differ in their bytes")
    neighbours = np.abs(base - np.roll(base, 1, axis=0))
    told: dict[str, Any] = {
        "actor and process": f"{equal} of {len(own)} files equal to the byte",
        "neighbouring rows": {"mean": round(float(neighbours.mean()), 2), "largest": float(neighbours.max())},
    }
    figure, most = MOST_APART[bench.machine.precision]
    for name in ("loop", "single"):
        apart = np.abs(_pixels(found[name].images) - base[: len(found[name].images)])
        of = {"mean": round(float(apart.mean()), 4), "largest": float(apart.max())}
        told[f"{name} and process"] = of | {"pixels that differ": round(float((apart > 0).mean()), 6)}
        if not of[figure] <= most < neighbours.mean():
            wrong.append(f"{name} and process differ by {of[figure]:g} grey levels ({figure})")
    told["noise of the pipeline"] = "equal to the bit" if same_noise(bench) else "differs"
    if not same_noise(bench):
        wrong.append("the pipeline draws other noise")
    return told | {"disagree": wrong}


def _pixels(images: Sequence[bytes]) -> npt.NDArray[np.float32]:
    opened_images = [Image.open(io.BytesIO(data)) for data in images]
    assert {image.mode for image in opened_images} == {"L"}
    return np.stack([np.asarray(image, np.float32) for image in opened_images])


def same_noise(bench: Bench) -> bool:
    """Whether the pipeline's own noise for a list of generators is that of `sampler.draw`."""
    shape = load_generator(bench.generator).latent_shape
    seeds = [row["seed"] for row in bench.rows[: bench.sampling.batch]]
    theirs = randn_tensor((len(seeds), *shape), generator=[torch.Generator().manual_seed(seed) for seed in seeds])
    ours = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return torch.equal(theirs, ours)


# What the parts gain


def gains(bench: Bench, rounds: int) -> dict[str, Any]:
    """Milliseconds an image with one batch and one by one, and of the text encoder with and without its cache."""
    generator = load_generator(bench.generator)
    batch, prompts = bench.sampling.batch, [row["prompt"] for row in bench.rows]
    settings = {size: replace(bench.sampling, batch=size, precision=bench.machine.precision) for size in (batch, 1)}
    part = bench.rows[:batch]
    known = prompt_embeddings(generator, ["", *(row["prompt"] for row in part)], precision=bench.machine.precision)
    texts, seeds = torch.stack([known[row["prompt"]] for row in part]), [row["seed"] for row in part]

    def drawn(size: int) -> float:
        began = time.perf_counter()
        for start in range(0, batch, size):
            draw(generator, texts[start : start + size], known[""][None], seeds[start : start + size], settings[size])
        return 1000 * (time.perf_counter() - began) / batch

    def encoded(every: int) -> float:
        began = time.perf_counter()
        for start in range(0, len(prompts), every):
            wanted = prompts[start : start + every]
            prompt_embeddings(generator, wanted, batch=batch, precision=bench.machine.precision)
        return 1000 * (time.perf_counter() - began) / len(prompts)

    many = planned(MANY, "").rows(0, MANY)
    turns = [(drawn(batch), drawn(1), encoded(len(prompts)), encoded(batch)) for _ in range(rounds)]
    together, alone, cached, fresh = zip(*turns, strict=True)
    return {
        "batch": {
            f"ms an image, {batch} at a time": round(min(together), 2),
            "ms an image, one by one": round(min(alone), 2),
            "times faster": _spread([a / b for a, b in zip(alone, together, strict=True)]),
        },
        "prompts embedded once": {
            "distinct prompts": f"{len(set(prompts))} of {len(prompts)}",
            "distinct prompts of a larger plan": f"{len(set(many['prompt'].to_pylist()))} of {MANY}",
            "ms an image, each distinct prompt once": round(min(cached), 3),
            "ms an image, anew in each batch": round(min(fresh), 3),
            "share of the drawing that is saved": round((min(fresh) - min(cached)) / min(together), 5),
        },
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": round(min(values), 3), "median": round(statistics.median(values), 3)}


def _ratios(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Of the rates of the same round."""
    pairs = (("actor", "loop"), ("actor", "single"), ("process", "loop"), ("actor", "process"))
    return {f"{a} / {b}": _spread([x / y for x, y in zip(rates[a], rates[b], strict=True)]) for a, b in pairs}


def _encoder(timed: Timed) -> dict[str, float]:
    count = len(timed.images)
    return {
        "prompts an image": round(timed.encoder["prompts"] / count, 3),
        "ms an image": round(1000 * timed.encoder["seconds"] / count, 3),
    }


def measured(bench: Bench, rounds: int) -> dict[str, Any]:
    """All ways in turn, in an order that changes from round to round."""
    runs: dict[str, list[Timed]] = {name: [] for name in WAYS}
    found: dict[str, Any] = {}
    wrong: list[str] = []
    names = list(WAYS)
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            turn = names[number % len(names) :] + names[: number % len(names)]
            for name in turn:
                runs[name].append(WAYS[name](bench, Path(folder) / name))
        found = agreement(bench, {name: each[-1] for name, each in runs.items()})
        wrong += found.pop("disagree")
    rates = {name: [each.rate for each in own] for name, own in runs.items()}
    ratios = _ratios(rates)
    missed = [
        f"{name} is {ratios[name]['median']}, not {least}"
        for name, least in (("actor / loop", LEAST_OF_LOOP), ("actor / single", LEAST_OF_SINGLE))
        if ratios[name]["median"] < least
    ]
    return {
        "images a second": {name: [round(rate, 3) for rate in own] for name, own in rates.items()},
        "ratios": ratios,
        "ratios by processor time": _ratios({name: [each.cpu_rate for each in own] for name, own in runs.items()}),
        "start-up seconds": {
            name: {part: round(statistics.median(each.start_up[part] for each in own), 2) for part in own[0].start_up}
            for name, own in runs.items()
        },
        "text encoder": {name: _encoder(runs[name][-1]) for name in ("process", "loop", "single")},
        "agreement of the last round": found,
        "gains": gains(bench, rounds),
        "disagree": sorted(set(wrong)),
        "bars missed": missed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=96, help="images of each way and round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--one_by_one", type=int, default=9, help="images of the way `single`")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--shard_batches", type=int, default=2, help="the job's default is 8: fewer files to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    shard = given.batch * given.shard_batches
    if given.rows % shard or given.rows % TARGETS or given.rows < 2 * shard:
        parser.error(f"--rows {given.rows}: a multiple of {TARGETS}, and two or more whole shards of {shard}")
    if not 2 <= given.one_by_one <= given.rows:
        parser.error(f"--one_by_one {given.one_by_one}: from 2 to --rows")
    private_by_default()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="The configuration file of this scheduler", category=FutureWarning)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        plan = planned(given.rows, save_random(folder, SmallSizes()))
        bench = Bench(
            generator=folder,
            plan=plan,
            sampling=SamplerSettings(
                batch=given.batch, steps=given.steps, guidance=given.guidance, shard_batches=given.shard_batches
            ),
            machine=Settings("cpu", given.precision, given.threads),
            one_by_one=given.one_by_one,
            rows=plan.rows(0, given.rows).to_pylist(),
        )
        found = measured(bench, given.rounds)
    report("synthesis_speed", {"settings": vars(given), **found})
    if found["disagree"] or found["bars missed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
