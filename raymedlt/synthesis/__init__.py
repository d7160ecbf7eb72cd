"""Synthesis of rare-class chest X-rays, with a quality and privacy gate. `Gate.load(folder).check(images, label_sets)`.

config.py, settings.py    the job's configuration
plan.py         which label sets are drawn how often (plan_sets.py, plan_summary.py); prompts.py: in which words
generator.py    a diffusion model in memory; folder.py: on disk; small.py: a small one from scratch
tokens.py, inversion.py, adapters.py    what is learnt on top of a frozen one
losses.py, loop.py, learning.py, autoencoder.py, texts.py    how it learns; teaching.py: one training of the job
sampler.py      images from rows of the plan; drawing.py: shard by shard
planted.py      training images changed a little: what the search for copies is tuned and tried on
fingerprint.py  a vector of an image that tells copies from others; copies.py: the search for copies, and repeats
agreement.py    what a classifier must see in an image; features.py, outliers.py: how far it is from real ones
broken.py       images that show nothing
gate.py         all of these as one verdict
judging.py      the gate over the job's shards
quality.py      KID, precision, recall, density, coverage and MS-SSIM beside their floor
running.py      the job, stage by stage; distributed.py: all that knows Ray; describing.py: --describe
finish.py, measuring.py, report.py, warnings.py, page.py, figures.py, sheets.py, card.py    what it leaves
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymedlt.synthesis.gate import Gate, Verdict
    from raymedlt.synthesis.settings import GateSettings

__all__ = ["Gate", "GateSettings", "Verdict"]


def __getattr__(name: str) -> Any:  # torch and FAISS are imported when one of these is used, not before
    if name in __all__:
        from raymedlt.synthesis import gate

        return getattr(gate, name)
    raise AttributeError(f"module 'raymedlt.synthesis' has no attribute {name!r}")
