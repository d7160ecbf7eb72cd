"""What the finetune job's page and cards say about a run, in plain values. What to distrust in it: warnings.py.

A figure that does not exist is None or NaN; pages show it as "not defined" or leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from raymedlt.evaluation.findings import Agreement
from raymedlt.evaluation.scores import COMPLETE, Evaluation
from raymedlt.evaluation.sentences import keys_of
from raymedlt.finetuning.config import Keep, TextFormat, TextUse
from raymedlt.finetuning.examples import Example
from raymedlt.intervals import Share
from raymedlt.resampling import Interval

NOTHING = Share(0, 0)


class FindingCounts(NamedTuple):
    """One finding over all reports: how often it was rightly claimed, wrongly claimed, and missed."""

    name: str
    hits: int
    false: int
    missed: int

    @property
    def positives(self) -> int:
        """Reports whose truth has it."""
        return self.hits + self.missed

    @property
    def claimed(self) -> int:
        """Reports of the model that claim it."""
        return self.hits + self.false

    @property
    def precision(self) -> Share:
        """Right ones among its claims."""
        return Share(self.hits, self.claimed)

    @property
    def recall(self) -> Share:
        """Claimed ones among those that are there."""
        return Share(self.hits, self.positives)

    @property
    def f1(self) -> float | None:
        """None where it is neither there nor claimed."""
        whole = 2 * self.hits + self.false + self.missed
        return 2 * self.hits / whole if whole else None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the model wrote for one split, held against the original reports and, if there are any, complete texts."""

    split: str
    reports: int
    patients: int
    scores: Mapping[str, Interval]
    """Names of evaluation.scores -> value with its 95 % interval."""
    findings: Sequence[FindingCounts]
    """Against the original reports."""
    complete: Sequence[FindingCounts] | None = None
    """Against texts without omissions; None where nobody has them."""
    normal: Share = NOTHING
    """Reports of the model that claim no finding."""
    normal_truth: Share = NOTHING
    """The same of the truth: of the complete texts where there are any, else of the original reports."""
    distinct: int = 0
    """Different reports among the model's, by their sentences."""
    distinct_references: int = 0
    """The same of the original reports."""
    reference_words: float = 0.0
    """Mean words of an original report; the model's are scores["words"]."""
    cut: int = 0
    """Reports of the model that ended because they had generation.max_tokens, in the middle of it."""
    absent: Sequence[str] = ()
    """What was not computed, and why, a line each."""

    @classmethod
    def of(
        cls,
        evaluation: Evaluation,
        *,
        split: str,
        completions: Sequence[str],
        references: Sequence[str],
        cut: int,
        resamples: int,
        seed: int,
    ) -> Scored:
        """From what `evaluation.scores.evaluate` found in these completions and references.

        O(resamples x patients x scores), half a second for 1,000 reports and 1,000 resamples.
        """
        truth = evaluation.complete or evaluation.agreement
        said = evaluation.agreement.hits_NG | evaluation.agreement.false_NG
        there = truth.hits_NG | truth.missed_NG
        return cls(
            split=split,
            reports=len(completions),
            patients=evaluation.patients.count,
            scores=evaluation.intervals(resamples=resamples, seed=seed),
            findings=_counts(evaluation.agreement),
            complete=None if evaluation.complete is None else _counts(evaluation.complete),
            normal=Share(int((~said.any(1)).sum()), len(said)),
            normal_truth=Share(int((~there.any(1)).sum()), len(there)),
            distinct=len({tuple(keys_of(text)) for text in completions}),
            distinct_references=len({tuple(keys_of(text)) for text in references}),
            reference_words=float(np.mean([len(text.split()) for text in references])),
            cut=cut,
            absent=tuple(evaluation.absent),
        )

    @property
    def truth(self) -> Sequence[FindingCounts]:
        """Against complete texts where there are any, else against the original reports."""
        return self.findings if self.complete is None else self.complete

    @property
    def truth_words(self) -> str:
        """What `truth` and `main` are held against."""
        return "the original reports" if self.complete is None else "complete texts"

    def main(self, name: str) -> Interval:
        """A score of findings against `truth`."""
        return self.scores[name if self.complete is None else f"{COMPLETE}{name}"]

    @property
    def total(self) -> FindingCounts:
        """All findings together, against `truth`."""
        return FindingCounts(
            "all",
            sum(each.hits for each in self.truth),
            sum(each.false for each in self.truth),
            sum(each.missed for each in self.truth),
        )


def _counts(agreement: Agreement) -> tuple[FindingCounts, ...]:
    """The findings, those with the most positives first."""
    counts = [
        FindingCounts(str(name).replace("_", " "), *map(int, three))
        for name, three in zip(agreement.names, agreement.counts_NG3.sum(0).tolist(), strict=True)
    ]
    return tuple(sorted(counts, key=lambda each: (-each.positives, each.name)))


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What was learnt from."""

    words: str
    """In a few words: "phantom images with label sets of padchest, and their reports"."""
    phantom: bool
    """Images and reports are made by code."""
    use: TextUse
    """text.use: what the training texts are."""
    form: TextFormat
    studies: Mapping[str, int]
    """By split."""
    patients: Mapping[str, int]
    taught: int
    """Training studies whose texts are not the original reports."""
    variants: int
    """Training texts in all."""
    tokens: Mapping[str, int]
    """Of training texts: "median", "largest"."""
    learnt_from_held_out: int = 0
    """Validation and test studies from which the run of jobs/enrich.py learnt as from training reports."""

    @classmethod
    def of(cls, summary: Mapping[str, Any], *, words: str, phantom: bool, use: TextUse, form: TextFormat) -> DataReport:
        """From what `arranging.arrange_studies` tells."""
        kept = ("studies", "patients", "taught", "variants", "tokens", "learnt_from_held_out")
        return cls(words=words, phantom=phantom, use=use, form=form, **{name: summary[name] for name in kept})


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """What learnt."""

    vision: str
    """The parts, in a few words each; "" where a given model has no such part."""
    connector: str
    language: str
    base: str = ""
    """Folder or hub name of the model that it started from; "" for one put together here."""
    method: str
    """"full" or "lora"."""
    parameters: int
    learning: int
    """Of the parameters."""
    image_size: int
    """Pixels per side."""
    prompt: str

    @property
    def words(self) -> str:
        """In a line."""
        parts = [part for part in (self.vision, self.connector, self.language) if part]
        return f"{self.base}: {' → '.join(parts)}" if self.base and parts else self.base or " → ".join(parts)


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """How it learnt."""

    history: Sequence[Mapping[str, float]]
    """Per epoch: epoch (from 0), loss and validation_loss per token, rate, seconds, replicas."""
    epochs: int
    """At most, as configured."""
    seeing: Sequence[Mapping[str, float]] = ()
    """Epochs in which the encoder alone learnt to see findings: epoch (from 0), loss, micro_f1 (of validation images,
    if it was measured)."""
    sees_first: bool = False
    """Whether the encoder was to learn to see: without an epoch in `seeing` it found nothing to learn from."""
    restarts: int = 0
    """How often the training went on from a checkpoint."""
    zero: int = 0
    """DeepSpeed's stage; 0: without DeepSpeed."""
    offload: bool = False
    device: str
    """"cpu" or "cuda"."""
    precision: str
    batch: int
    """Studies per step."""

    keep: Keep = "best"
    """Which epoch's weights were kept."""

    @property
    def kept(self) -> Mapping[str, float] | None:
        """The epoch whose weights were kept; None without any epoch."""
        if self.keep == "last":
            return self.history[-1] if self.history else None
        return min(self.history, key=lambda entry: entry["validation_loss"], default=None)

    @property
    def replicas(self) -> list[int]:
        """How many trained, in the order of the epochs, without repeats: [2, 1, 2] for a worker that came back."""
        found: list[int] = []
        for entry in self.history:
            now = int(entry.get("replicas", 1))
            if not found or found[-1] != now:
                found.append(now)
        return found

    @property
    def still_falling(self) -> bool:
        """The last epoch that was allowed is the one with the smallest validation loss."""
        losses = [entry["validation_loss"] for entry in self.history]
        return bool(losses) and len(losses) >= self.epochs and losses[-1] == min(losses)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the run took."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds of work of the call that wrote the page, in the order of the stages."""
    startup_seconds: float = 0.0
    reports_per_second: float | None = None
    """Written by all workers together, the loading of the model included; None where this call wrote none."""
    gpu_hours: float | None = None
    """None where nothing ran on a GPU."""
    where: str = ""
    """Machine and workers, in words."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that page and cards say about a run."""

    data: DataReport
    model: ModelReport
    training: TrainingReport
    scored: Sequence[Scored]
    """One for each split that reports were written for."""
    examples: Sequence[Example] = ()
    """Of the split that key figures are of; see `examples.chosen`."""
    blind: bool = False
    """The control: the model saw the same grey square instead of every image."""
    cost: Cost = field(default_factory=Cost)
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Reason -> rows."""
    rejected_rows: Sequence[tuple[str, str, str]] = ()
    """The first of them: row, source, reason."""
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    """Flat, as raymedlt.config.flatten gives it."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The same of the default configuration."""
    config_hash: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version."""

    @property
    def main(self) -> Scored | None:
        """What key figures are of: the test split if it was scored; None where nothing was."""
        return next((each for each in self.scored if each.split == "test"), next(iter(self.scored), None))
