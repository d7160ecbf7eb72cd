"""What a replica does when the generator learns: from prepared images to a saved generator or adapters. No Ray in here.

_work/learn/autoencoder/, decoder/, denoiser/    checkpoints (see raymedlt/checkpoint.py)
generator/      a small generator trained from scratch, in diffusers' Stable Diffusion layout
adapters/       what was learnt on top of a generator that stays as it is
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymedlt.checkpoint import Checkpoints
from raymedlt.cpus import use_threads
from raymedlt.images.arranging import Data
from raymedlt.images.examples import Examples, Rows
from raymedlt.images.sampling import repeat_factors
from raymedlt.ledger import LedgerHandle
from raymedlt.machine import Settings
from raymedlt.schema import TRAIN, VALIDATION
from raymedlt.storage import FileEntry, Storage, below, sha256_of
from raymedlt.synthesis.adapters import save_adapters
from raymedlt.synthesis.autoencoder import train_autoencoder, train_decoder
from raymedlt.synthesis.config import SynthesizeConfig
from raymedlt.synthesis.folder import generator_hash, load_generator, save_generator
from raymedlt.synthesis.generator import Generator
from raymedlt.synthesis.learning import TrainingRows, encode_images, held_out_losses, learn
from raymedlt.synthesis.loop import LoopSettings
from raymedlt.synthesis.prompts import vocabulary
from raymedlt.synthesis.settings import LearningSettings
from raymedlt.synthesis.small import build_small
from raymedlt.synthesis.texts import Texts, findings_of, texts_of

LEARN = "learn"
GENERATOR, ADAPTERS = "generator", "adapters"
CHECKPOINTS = "_work/learn"
"""Folder of the run, until the generator is saved."""
HELD_OUT = 256
"""Validation images on which the loss before and after is measured, at most."""

Said = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Teach:
    """The training of a run: small and picklable."""

    config: SynthesizeConfig
    data: Data
    settings: Settings
    handle: LedgerHandle

    def __call__(self, *, said: Said = lambda part, entry: None, first: bool = True) -> None:
        """Learn, going on from the last checkpoints; the first replica saves and commits.

        Args:
            said: called with "autoencoder", "decoder" or "denoiser" and a report of the loop (see loop.py).
        """
        use_threads(self.settings.threads)
        storage = self.handle.storage
        examples = self.data.load(storage)
        texts = self._texts(examples, TRAIN)
        own, scratch = learning_of(self.config, self.data.classes), self.config.generator.path is None
        images = examples.pixels.take(texts.rows)
        summary: dict[str, Any] = {"method": own.method, "images": len(images)}
        generator = self._start(images, summary, said)
        rows = self._rows(generator, images, texts, examples)
        held_out = self._held_out(generator, examples)
        if self.config.generator.path is not None:
            summary["held_out_before"] = self._loss(generator, held_out)
        history = learn(
            generator, rows, own, self._loop(own.steps, own.batch, rate_of(own, scratch)),
            Checkpoints(storage.sub(f"{CHECKPOINTS}/denoiser")), lambda entry: said("denoiser", entry),
        )  # fmt: skip
        summary |= {"history": timeless(history), "held_out_after": self._loss(generator, held_out)}
        if first:
            if own.method == "full":
                save_generator(generator.to("cpu"), below(self.config.output, GENERATOR))
            else:
                save_adapters(generator, below(self.config.output, ADAPTERS), {"classes": list(self.data.classes)})
            folder = GENERATOR if own.method == "full" else ADAPTERS
            summary["checkpoint_hash"] = generator_hash(*paths_of(self.config))
            self.handle.commit(LEARN, "generator", entries_of(storage, folder), summary)

    def _start(self, images_NSS: Any, summary: dict[str, Any], said: Said) -> Generator:
        """The generator as it is before the denoiser learns."""
        config = self.config
        if config.generator.path is not None:
            return load_generator(config.generator.path, device=self.settings.device)
        own = config.generator.autoencoder
        words = vocabulary(self.data.classes, views=(config.plan.view,))
        generator = build_small(words, config.generator.small, config.seed)
        storage = self.handle.storage
        history = train_autoencoder(
            generator, images_NSS, own, self._loop(own.steps, own.batch, own.rate),
            Checkpoints(storage.sub(f"{CHECKPOINTS}/autoencoder")), lambda entry: said("autoencoder", entry),
        )  # fmt: skip
        summary["autoencoder"] = timeless(history)
        if own.decoder_steps:
            history = train_decoder(
                generator, images_NSS, own, self._loop(own.decoder_steps, own.batch, own.rate / 3),
                Checkpoints(storage.sub(f"{CHECKPOINTS}/decoder")), lambda entry: said("decoder", entry),
            )  # fmt: skip
            summary["decoder"] = timeless(history)
        return generator

    def _texts(self, examples: Examples, split: str) -> Texts:
        plan, own = self.config.plan, self.config.learning
        rows = examples.rows(split)
        findings = findings_of(self.handle.storage, examples, rows)
        return texts_of(
            examples, rows, findings, wordings=own.wordings if plan.varied else 1, seed=self.config.seed,
            view=plan.view, normal=plan.normal_classes,
        )  # fmt: skip

    def _rows(self, generator: Generator, images: Any, texts: Texts, examples: Examples) -> TrainingRows:
        mean, std = encode_images(generator, images, precision=self.settings.precision)
        threshold = self.config.learning.repeat_threshold
        labels = examples.labels_NC[texts.rows] * examples.known_NC[texts.rows]
        weights = repeat_factors(labels, threshold) if threshold else None
        return TrainingRows(mean, std, texts.prompts, texts.label_sets, weights)

    def _held_out(self, generator: Generator, examples: Examples) -> TrainingRows | None:
        texts = self._texts(examples, VALIDATION)
        chosen: Rows = texts.rows[:HELD_OUT]
        if not len(chosen):
            return None
        mean, std = encode_images(generator, examples.pixels.take(chosen), precision=self.settings.precision)
        return TrainingRows(mean, std, texts.prompts[: len(chosen)], texts.label_sets[: len(chosen)])

    def _loss(self, generator: Generator, rows: TrainingRows | None) -> float | None:
        """Mean squared error of the noise on held-out real images; all of them see the same noise before and after."""
        if rows is None:
            return None
        found = held_out_losses(generator, rows, seed=self.config.seed, precision=self.settings.precision)
        return float(np.mean(found))

    def _loop(self, steps: int, batch: int, rate: float) -> LoopSettings:
        own = self.config.learning
        return LoopSettings(
            steps=steps, batch=batch, rate=rate, warmup_steps=min(100, steps // 10), ema=own.ema,
            seed=self.config.seed, device=self.settings.device, precision=self.settings.precision,
            threads=self.settings.threads, checkpoint_seconds=own.checkpoint_seconds,
            report_steps=max(1, min(50, steps // 20)),
        )  # fmt: skip


def learning_of(config: SynthesizeConfig, classes: tuple[str, ...]) -> LearningSettings:
    """The settings with what "auto" and defaults stand for."""
    own = config.learning
    scratch = config.generator.path is None
    method = ("full" if scratch else "tokens") if own.method == "auto" else own.method
    names = own.class_names or (classes if own.per_class else ())
    return dataclasses.replace(
        own, method=method, class_names=names, train_text_encoder=scratch or own.train_text_encoder
    )


def rate_of(learning: LearningSettings, scratch: bool) -> float:
    """The learning rate, or what suits the method."""
    if learning.rate is not None:
        return learning.rate
    usual = {"tokens": 1e-2, "textual_inversion": 1e-2, "lora": 1e-4, "full": 1e-3 if scratch else 1e-5}
    return usual[learning.method]


def paths_of(config: SynthesizeConfig) -> tuple[str, str | None]:
    """Where the run's generator lies, and what was learnt on top of it."""
    if config.generator.adapters is not None:
        return str(config.generator.path), config.generator.adapters
    if config.generator.path is None or config.learning.method == "full":
        return below(config.output, GENERATOR), None
    return config.generator.path, below(config.output, ADAPTERS)


def entries_of(storage: Storage, folder: str) -> list[FileEntry]:
    """The files of a folder that others wrote, as the ledger wants them."""
    entries = []
    for name in storage.list_files(folder):
        data = storage.read_bytes(name)
        entries.append(FileEntry(name, sha256_of(data), len(data)))
    return entries


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what differs from run to run."""
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in history]
