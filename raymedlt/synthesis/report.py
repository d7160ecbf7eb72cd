"""What the synthesize job's page and cards say about a run, in plain values. What to distrust in it: warnings.py.

A figure that does not exist is None, and `why` says why; pages show it as "not defined".

Shape suffixes: N images, S height and width of an image.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.intervals import wilson
from raymedlt.synthesis.agreement import NOT_SHOWN, STRAY, UNKNOWN, UNPLANNED, UNTUNED
from raymedlt.synthesis.plan_summary import PlanSummary
from raymedlt.synthesis.quality import Quality

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64] | npt.NDArray[np.float32]

NOT_PATIENTS = (
    "Images made by a model: they show no patient and prove nothing. For training research models only, never for"
    " diagnosis, never among validation or test images."
)
PHANTOM = (
    "The real images here are themselves drawn by code (the procedural phantom), not patients'. The figures compare"
    " methods; they say nothing about real chest X-rays."
)
COPY, REPEAT = "copy of a training image", "repeat"
"""The gate's words for these two reasons."""
REASONS = {
    NOT_SHOWN: "the classifier does not see a planned class",
    STRAY: "the classifier sees a class that was not planned",
    COPY: "closer to a training image than held-out real images are: memorised, or too alike to tell",
    REPEAT: "nearly the same image as an earlier one of this set",
    "unlike real images": "further from the real images than real images are",
    "flat image": "nearly one grey level",
    "black image": "nearly all of it is black",
    "saturated image": "more than half of it is white",
    "not finite": "the generator gave numbers that are no grey levels",
    "unreadable image": "no image could be read",
    UNTUNED: "the gate has no threshold for the class",
    UNKNOWN: "the gate's classifier was not trained on the class",
    UNPLANNED: "the row has no label set",
}
UNDEFINED = "not defined"
LOW_ACCEPTANCE = 0.2
FEW_ACCEPTED = 50
FEW_VALIDATION = 30  # real validation images of a class: fewer, and its thresholds are a guess
FEW_COMPARED = 50  # images of each set behind KID and its companions
KID_FAR = 5.0  # times the floor
SAMENESS = 0.1  # MS-SSIM above the real one
SHIFTED = 0.1  # of a conditional probability, by the plan
LEAST_CAUGHT = 0.99
MANY_REPEATS = 0.05


class Share(NamedTuple):
    """So many of so many."""

    part: int
    whole: int

    @property
    def value(self) -> float | None:
        """None of nothing."""
        return self.part / self.whole if self.whole else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; (0, 1) of nothing."""
        return wilson(self.part, self.whole)

    def __str__(self) -> str:
        if self.value is None:
            return UNDEFINED
        low, high = self.interval
        digits = 1 if self.whole >= 200 else 0
        return f"{100 * self.value:.{digits}f}\u00a0% ({100 * low:.{digits}f} to {100 * high:.{digits}f})"


NOTHING = Share(0, 0)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How near a set of images is to the real training images (see quality.py). None where not defined."""

    kid: float | None = None
    kid_error: float | None = None
    """Standard error of `kid`; None where it was not estimated."""
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    ms_ssim: float | None = None
    """Mean over pairs of images within the set."""

    @classmethod
    def of(cls, quality: Quality, kid_error: float | None = None) -> Figures:
        """From `quality.compare`; what is not finite there is None here."""
        names = ("kid", "precision", "recall", "density", "coverage", "ms_ssim")
        return cls(kid_error=_finite(kid_error), **{name: _finite(getattr(quality, name)) for name in names})


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Accepted images beside as many held-out real images: the same figures of both against the training images."""

    synthetic: Figures = field(default_factory=Figures)
    real: Figures = field(default_factory=Figures)
    """The floor: what real images get."""
    compared: int = 0
    """Images of each of the two sets."""
    why: str = ""
    """Why figures are not defined: "3 held-out real images show it"."""

    @property
    def far(self) -> bool:
        """KID is more than KID_FAR times the floor, or times the floor's own noise where that is larger."""
        if self.synthetic.kid is None or self.real.kid is None:
            return False
        return self.synthetic.kid > KID_FAR * max(abs(self.real.kid), 2 * (self.real.kid_error or 0.0))


class Truth(NamedTuple):
    """Images that show the class they are for according to a second classifier, which has no part in the gate."""

    drawn: Share
    """Of all images drawn for the class."""
    accepted: Share
    """Of those that the gate accepted."""


@dataclass(frozen=True, kw_only=True)
class ClassReport:
    """One class that was planned for. Every row is for one class, so sums over classes are those of the run."""

    name: str
    real: int
    """Real training images that show it."""
    planned: int
    """Rows of the plan that are for it."""
    drawn: int
    """Of these, how many were drawn."""
    accepted: int
    """Of these, how many passed the gate."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Reason, without the class behind ": " -> refused images that it was given for; one image may have several."""
    likeness: Likeness = field(default_factory=lambda: Likeness(why="not measured"))
    validation: int | None = None
    """Real validation images that show it: the gate's thresholds come from these."""
    threshold: float | None = None
    """Calibrated probability that the class must reach; None where the gate has none."""
    gate_precision: float | None = None
    """What the threshold reaches on validation."""
    gate_recall: float | None = None
    """Share of the real validation images of the class that reach it."""
    truth: Truth | None = None

    @property
    def acceptance(self) -> Share:
        """Accepted of drawn."""
        return Share(self.accepted, self.drawn)


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """Distance to the nearest training image, as a share of what a held-out real image's is in the median."""

    threshold: float
    """Images below it are refused as copies."""
    synthetic_N: Floats
    """Of drawn images."""
    held_out_N: Floats
    """Of real images of other patients."""
    planted_N: Floats | None = None
    """Of training images that were changed a little and passed off as synthetic; None where these were not kept."""
    caught: Share = NOTHING
    """Of the planted copies."""
    false_refusals: Share = NOTHING
    """Of the held-out real images."""


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """Denoising loss on real images that the generator was not trained on, with the same noise before and after."""

    images: int
    before: float
    after: float
    low: float | None = None
    """95 % interval of the mean of after - before; None where it was not estimated."""
    high: float | None = None

    @property
    def better(self) -> bool:
        """Lower afterwards, beyond chance where there is an interval."""
        return self.after < self.before and (self.high is None or self.high < 0)


@dataclass(frozen=True, kw_only=True)
class GeneratorReport:
    """What drew the images."""

    words: str
    """In a few words: "a small latent diffusion model, trained from scratch on 3,600 real images"."""
    method: str
    """"full", "tokens", "textual_inversion", "lora", or "" where nothing was learnt."""
    checkpoint_hash: str
    """The plan's."""
    size: int
    """Pixels per side."""
    base: str = ""
    """Folder or hub name of the generator that something was learnt on top of; "" for one from scratch."""
    parameters: int | None = None
    trained: int | None = None
    """Of the parameters, those that learnt."""
    images: int | None = None
    """Real training images that it learnt from."""
    held_out: HeldOutLoss | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the run took."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds of work, in the order of the stages."""
    startup_seconds: float = 0.0
    images_per_second: float | None = None
    """Drawn, by all workers together, in steady state."""
    step_seconds: float | None = None
    """One denoising step of one batch, measured."""
    gpu_hours: float | None = None
    """None where nothing ran on a GPU."""
    where: str = ""
    """Machine, workers, precision, in words."""


@dataclass(frozen=True, kw_only=True)
class ClassSheet:
    """Accepted images of a class, the first of the plan: nobody picked them."""

    class_name: str
    images_NSS: Bytes
    total: int
    """Accepted images that there are."""


@dataclass(frozen=True, kw_only=True)
class RefusedSheet:
    """Images that were refused for one reason, the first of the plan."""

    reason: str
    """Without the class behind ": "."""
    images_NSS: Bytes
    notes: Sequence[str]
    """Beside the images: what each was for."""
    total: int
    """Images that were refused for it."""


@dataclass(frozen=True, kw_only=True)
class NearestPair:
    """An accepted image and the real training image that is nearest to it."""

    class_name: str
    image_SS: Bytes
    nearest_SS: Bytes
    ratio: float
    """See Memorisation."""
    labels: Sequence[str] = ()
    """The image's planned label set."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that page and cards say about a run."""

    data: str
    """What the real images are, in a few words: "phantom images with label sets of padchest"."""
    phantom: bool
    """The real images are drawn by code."""
    plan: PlanSummary
    classes: Sequence[ClassReport]
    """Classes that were planned for, the rarest first."""
    generator: GeneratorReport
    likeness: Likeness = field(default_factory=lambda: Likeness(why="not measured"))
    """Over all classes together."""
    memorisation: Memorisation | None = None
    classifier: str = ""
    """The gate's classifier, in words."""
    gate: Sequence[tuple[str, str]] = ()
    """The gate's settings, in words: name, value."""
    gate_precision: float | None = None
    """Wanted precision of its thresholds."""
    curves: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    """Training -> reports of loop.fit: step, loss, rate, seconds. "autoencoder", "denoiser", ..."""
    accepted_sheets: Sequence[ClassSheet] = ()
    refused_sheets: Sequence[RefusedSheet] = ()
    pairs: Sequence[NearestPair] = ()
    """The closest first."""
    cost: Cost = field(default_factory=Cost)
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Reason -> rows of the real label table that could not be used."""
    rejected_rows: Sequence[tuple[str, str, str]] = ()
    """The first of them: row, source, reason."""
    warnings: Sequence[str] = ()
    """The job's own; what follows from the figures is added by `warnings_of`."""
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    """Flat, as raymedlt.config.flatten gives it."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The same of the default configuration."""
    config_hash: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version."""

    @property
    def planned(self) -> int:
        """Rows of the plan."""
        return sum(each.planned for each in self.classes)

    @property
    def acceptance(self) -> Share:
        """Accepted of drawn."""
        return Share(sum(each.accepted for each in self.classes), sum(each.drawn for each in self.classes))

    @property
    def refused(self) -> int:
        """Drawn and not accepted."""
        return self.acceptance.whole - self.acceptance.part

    def reasons(self) -> dict[str, int]:
        """Reason -> refused images that it was given for, the commonest first."""
        found: Counter[str] = Counter()
        for each in self.classes:
            found.update(each.refused)
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def class_count(count: int) -> str:
    """ "1 class", "2 classes"."""
    return f"{count} class" if count == 1 else f"{count:,} classes"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names with commas; the first ones of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def capital(words: str) -> str:
    """With a capital letter in front."""
    return words[:1].upper() + words[1:]


def number(value: float | None) -> str:
    """Three digits; "not defined" for None."""
    return UNDEFINED if value is None else f"{value:.3g}".replace("-", "−")


def kid(own: Figures) -> str:
    """KID with its standard error, where that is known."""
    error = "" if own.kid is None or own.kid_error is None else f" ± {own.kid_error:.2g}"
    return number(own.kid) + error


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
