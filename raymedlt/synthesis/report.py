"""What the synthesize job's page and cards say about a run, in plain values, and what to distrust in it.

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


def warnings_of(report: Report) -> list[str]:
    """What to distrust, the gravest first."""
    found = [NOT_PATIENTS, *([PHANTOM] if report.phantom else []), *report.warnings]
    found += [*_about_acceptance(report), *_about_copies(report), *_about_likeness(report), *_about_gate(report)]
    held_out = report.generator.held_out
    if held_out is not None and not held_out.better:
        found.append(
            "Learning did not clearly lower the denoising loss on held-out real images"
            f" ({held_out.before:.4g} before, {held_out.after:.4g} after)."
        )
    if report.plan.shift > SHIFTED:
        first, second = report.plan.shift_pair
        found.append(
            f"The plan moves how often {second} goes with {first} by {100 * report.plan.shift:.0f} points against the"
            " real images: a classifier may learn that."
        )
    if rows := sum(report.rejected.values()):
        found.append(f"{rows:,} rows of the label table were rejected; their reasons are in the table `rejected`.")
    return found


def _about_acceptance(report: Report) -> list[str]:
    found = []
    if missing := report.planned - report.acceptance.whole:
        found.append(f"{missing:,} of {report.planned:,} planned images were not drawn.")
    if none := [each.name for each in report.classes if not each.accepted]:
        found.append(f"{class_count(len(none))} without an accepted image: {listed(none)}. Nothing was gained there.")
    if low := [each.name for each in report.classes if each.accepted and _low(each)]:
        found.append(
            f"{class_count(len(low))} with an acceptance under {100 * LOW_ACCEPTANCE:.0f} %: {listed(low)}. The gate"
            " picks the few that the classifier likes there: expect easy and uniform images."
        )
    if few := [each.name for each in report.classes if 0 < each.accepted < FEW_ACCEPTED]:
        found.append(f"{class_count(len(few))} with fewer than {FEW_ACCEPTED} accepted images: {listed(few)}.")
    return found


def _low(each: ClassReport) -> bool:
    return each.acceptance.value is not None and each.acceptance.value < LOW_ACCEPTANCE


def _about_copies(report: Report) -> list[str]:
    reasons, drawn, own = report.reasons(), report.acceptance.whole, report.memorisation
    found = []
    if copies := reasons.get(COPY, 0):
        usual = own.false_refusals.value if own else None
        words = "" if usual is None else f"; of real images of other patients it refuses {100 * usual:.1f} %"
        told = f"{copies:,} of {drawn:,} drawn images were refused as copies of training images"
        told += f" ({100 * copies / drawn:.1f} %{words})."
        if usual is None or Share(copies, drawn).interval[0] > usual:
            told += " The generator may remember patients: don't publish its weights."
        found.append(told)
    if report.generator.base:
        found.append(
            "The base generator's own training images are not known here: only copies of this run's real images were"
            " looked for."
        )
    if own is None:
        found.append("Memorisation was not measured: nothing says that these images are no copies of patients' images.")
    elif own.caught.value is None:
        found.append("The search for copies was not tried on planted copies: nobody knows what it misses.")
    elif own.caught.value < LEAST_CAUGHT:
        found.append(f"The search for copies caught only {own.caught.part:,} of {own.caught.whole:,} planted copies.")
    if drawn and (repeats := reasons.get(REPEAT, 0)) > MANY_REPEATS * drawn:
        found.append(f"{repeats:,} of {drawn:,} drawn images repeat an earlier one: the generator has little variety.")
    return found


def _about_likeness(report: Report) -> list[str]:
    every = [("all classes together", report.likeness), *((each.name, each.likeness) for each in report.classes)]
    found = []
    if far := [name for name, each in every if each.far]:
        found.append(
            f"KID is more than {KID_FAR:g} times what real images get (or that figure's noise) for {listed(far)}: the"
            " images differ visibly to the network that gives the features."
        )
    if same := [name for name, each in every if _uniform(each)]:
        found.append(f"Images are more alike than real ones for {listed(same)} (MS-SSIM, coverage or recall).")
    if few := [name for name, each in every[1:] if 0 < each.compared < FEW_COMPARED]:
        found.append(
            f"KID and its companions rest on fewer than {FEW_COMPARED} images a set for {listed(few)}: mostly noise."
        )
    if undefined := [name for name, each in every if each.synthetic.kid is None]:
        found.append(f"KID and its companions are not defined for {listed(undefined)}: see How real, how varied.")
    return found


def _uniform(likeness: Likeness) -> bool:
    own, real = likeness.synthetic, likeness.real
    alike = own.ms_ssim is not None and real.ms_ssim is not None and own.ms_ssim > real.ms_ssim + SAMENESS
    pairs = ((own.coverage, real.coverage), (own.recall, real.recall))
    return alike or any(a is not None and b is not None and a < b / 2 for a, b in pairs)


def _about_gate(report: Report) -> list[str]:
    found = []
    if few := [
        each.name for each in report.classes if each.validation is not None and each.validation < FEW_VALIDATION
    ]:
        found.append(
            f"{class_count(len(few))} whose thresholds rest on fewer than {FEW_VALIDATION} real validation images:"
            f" {listed(few)}. What the gate accepts there is little vouched for."
        )
    wanted = report.gate_precision
    if wanted is not None and (
        short := [
            each.name for each in report.classes if each.gate_precision is not None and each.gate_precision < wanted
        ]
    ):
        found.append(
            f"{class_count(len(short))} where no threshold reaches the wanted precision of {wanted:g}: {listed(short)}."
            " The most precise one is used."
        )
    return found


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
