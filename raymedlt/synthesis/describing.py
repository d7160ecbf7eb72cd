"""What `--describe` says: what would be done, how many images of which class, and what that costs."""

from __future__ import annotations

import dataclasses
import os
import time

import pyarrow as pa
import torch

from raymedlt.config import config_hash
from raymedlt.cpus import use_threads
from raymedlt.images.arranging import arrange, examples_of
from raymedlt.images.examples import PixelShards
from raymedlt.images.preparing import read_source
from raymedlt.ledger import FOLDER
from raymedlt.schema import TRAIN
from raymedlt.storage import Storage
from raymedlt.synthesis.config import SynthesizeConfig, data_of
from raymedlt.synthesis.folder import load_generator
from raymedlt.synthesis.plan import Plan, make_plan
from raymedlt.synthesis.prompts import vocabulary
from raymedlt.synthesis.sampler import draw, prompt_embeddings
from raymedlt.synthesis.small import build_small
from raymedlt.synthesis.teaching import learning_of


def description(config: SynthesizeConfig) -> str:
    """The text of `--describe`. Reads the label table and the generator, times two steps, writes nothing.

    Raises:
        ConfigError, InputError: what the run would refuse for its label table, plan or generator.
    """
    plan, classes = planned(config)
    seconds = step_seconds(config, classes)
    own, sampling = learning_of(config, classes), config.sampling
    batches = -(-len(plan) // sampling.batch)
    hours = batches * sampling.steps * seconds / 3600
    device = "GPU" if config.machine.device == "cuda" or _has_gpu(config) else "CPU"
    storage = Storage.of(config.output)
    done: dict[str, int] = {}
    for name in storage.list_files(FOLDER):
        parts = name.split("/")
        if len(parts) == 3:
            done[parts[1]] = done.get(parts[1], 0) + 1
    source = (
        f"phantom: {config.phantom.images:,} training and validation images, label sets of {config.phantom.prevalence}"
        if config.images.path is None
        else f"{config.images.path}, labels {config.labels.path} ({config.labels.format})"
    )
    scratch = config.generator.path is None
    generator = "a small one, trained from scratch" if scratch else str(config.generator.path)
    steps = (
        ("labels", "read the label table, reject rows that can't be used"),
        ("prepare", f"decode or draw, {config.images.size} px"),
        ("arrange", "patient-disjoint splits, leak check"),
        ("classifier", config.classifier.path or f"train one on real images, {config.classifier.epochs} epochs"),
        ("gate", f"tuned on real validation images, precision {config.gate.precision:g}"),
        ("learn", "adapters are given" if config.generator.adapters else
         f"{own.method}, {own.steps:,} steps of {own.batch} images"
         + (f", after {config.generator.autoencoder.all_steps:,} steps of the autoencoder" if scratch else "")),
        ("plan", f"{len(plan):,} rows for {len(plan.rows_of())} classes, up to {plan.target_count:,} images each"),
        ("draw", f"{batches:,} batches of {sampling.batch}, {sampling.steps} steps of {sampling.scheduler}, "
                 f"guidance {sampling.guidance:g}"),
        ("judge", "agreement, distance, memorisation; then repeats over all images"),
        ("finish", "page, cards, figures beside the real-versus-real floor"),
    )  # fmt: skip
    rows = [f"           {name}: {count:,}" for name, count in plan.rows_of().items()]
    return "\n".join(
        [
            "raymedlt synthesize: what would be done (nothing was drawn)",
            "",
            f"source     {source}",
            f"output     {storage.uri}",
            f"generator  {generator}",
            f"hash       {config_hash(config)}",
            "",
            *(f"{name:<10} {text}" + (f"  [{done[name]} done]" if name in done else "") for name, text in steps),
            "",
            "images     rows of the plan, if no row of the label table is rejected",
            *rows,
            f"cost       {len(plan):,} images x {sampling.steps} steps; {seconds:.3g} s for a step of {sampling.batch} "
            f"images, measured here: {hours:.3g} {device}-hours to draw",
        ]
    )


def planned(config: SynthesizeConfig) -> tuple[Plan, tuple[str, ...]]:
    """The plan as it will be if every image can be prepared, and the classes."""
    data = data_of(config)
    source = read_source(data)
    ids = source.images["image_id"]
    prepared = pa.table({"image_id": ids, "sha256": pa.array([""] * len(ids), pa.string())})
    arranged = arrange(source.images, prepared, source.classes, data)
    classes = tuple(arranged.summary["classes"])
    examples = examples_of(arranged.table, classes, PixelShards.of([]))
    rows = examples.rows(TRAIN)
    plan = make_plan(
        examples.labels_NC[rows], examples.known_NC[rows], classes, config.plan, seed=config.seed, checkpoint_hash="",
    )  # fmt: skip
    return plan, classes


def step_seconds(config: SynthesizeConfig, classes: tuple[str, ...]) -> float:
    """Seconds of one denoising step of one batch on this machine, with the threads that drawing has."""
    device = "cuda" if _has_gpu(config) else "cpu"
    if config.generator.path is None:
        generator = build_small(vocabulary(classes, views=(config.plan.view,)), config.generator.small, config.seed)
    else:
        generator = load_generator(config.generator.path, adapters=config.generator.adapters)
    generator.to(device)
    use_threads(config.machine.threads)
    empty = prompt_embeddings(generator, [""])[""].unsqueeze(0)
    precision = config.sampling.precision if config.sampling.precision != "auto" else "float32"
    times = []
    for steps in (1, 3):
        settings = dataclasses.replace(config.sampling, steps=steps, precision=precision, compile=False)
        seeds = list(range(settings.batch))
        draw(generator, empty.expand(len(seeds), -1, -1), empty, seeds, settings)  # the first call warms up
        began = time.perf_counter()
        draw(generator, empty.expand(len(seeds), -1, -1), empty, seeds, settings)
        times.append(time.perf_counter() - began)
    return max(1e-6, (times[1] - times[0]) / 2)


def _has_gpu(config: SynthesizeConfig) -> bool:
    return config.machine.device != "cpu" and not os.environ.get("RAY_ADDRESS") and torch.cuda.is_available()
