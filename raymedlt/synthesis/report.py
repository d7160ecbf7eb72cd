"""What the synthesize job's page and cards say about a run, in plain values. What to distrust in it: warnings.py.

A figure that does not exist is None, and `why` says why; pages show it as "not defined".

Shape suffix: N images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raymedlt.intervals import Share
from raymedlt.synthesis.plan_summary import PlanSummary
from raymedlt.synthesis.quality import Quality
from raymedlt.synthesis.report_words import number
from raymedlt.synthesis.sheets import ClassSheet, NearestPair, RefusedSheet

Floats = npt.NDArray[np.float64] | npt.NDArray[np.float32]


NOTHING = Share(0, 0)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How near a set of images is to the real training images (see quality.py). None where not defined."""

    kid: float | None = None
    kid_error: float | None = None
    """Standard error of `kid`."""
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    ms_ssim: float | None = None
    """Mean over pairs of images within the set."""

    @classmethod
    def of(cls, quality: Quality) -> Figures:
        """From `quality.compare`; what is not finite there is None here."""
        return cls(**{name: value if math.isfinite(value) else None for name, value in asdict(quality).items()})

    @property
    def kid_words(self) -> str:
        """KID with its standard error."""
        return number(self.kid) + ("" if self.kid is None or self.kid_error is None else f" ± {self.kid_error:.2g}")


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
    prior: float | None = None
    """Share of the drawn images that is taken to show the class before the gate; the precision is at this share."""

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
    """Of training images that were changed a little and passed off as synthetic; None where none were."""
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
    images: int | None = None
    """Real training images that it learnt from."""
    held_out: HeldOutLoss | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the run took."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds of work of the call that wrote the page, in the order of the stages."""
    startup_seconds: float = 0.0
    images_per_second: float | None = None
    """Drawn by all workers together, the loading of the generator included; None where this call drew nothing."""
    gpu_hours: float | None = None
    """None where nothing ran on a GPU."""
    where: str = ""
    """Machine, workers, precision, in words."""


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
    """All classes together: equally many images of each class in the sets that are compared."""
    memorisation: Memorisation | None = None
    classifier: str = ""
    """The gate's classifier, in words."""
    gate: Sequence[tuple[str, str]] = ()
    """The gate's settings, in words: name, value."""
    gate_precision: float | None = None
    """Wanted precision of its thresholds."""
    curves: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    """Training ("autoencoder", "decoder", "denoiser") -> reports of loop.fit: step, loss, rate."""
    accepted_sheets: Sequence[ClassSheet] = ()
    refused_sheets: Sequence[RefusedSheet] = ()
    pairs: Sequence[NearestPair] = ()
    """The closest first."""
    cost: Cost = field(default_factory=Cost)
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Reason -> rows of the real label table that could not be used."""
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
