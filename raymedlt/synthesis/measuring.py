"""What a finished run knows about its images: counts by class, likeness to real images, nearest neighbours, sheets.

Reads the run's tables shard by shard; of images it holds what pages show and what figures compare (MOST of each class).
"""

from __future__ import annotations

import heapq
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from raymedlt.images.examples import Examples, Rows
from raymedlt.intervals import Share
from raymedlt.schema import TRAIN, VALIDATION
from raymedlt.seeds import generator
from raymedlt.storage import Storage
from raymedlt.synthesis.features import lite0_features
from raymedlt.synthesis.fingerprint import reduced
from raymedlt.synthesis.gate import Gate
from raymedlt.synthesis.plan import Plan
from raymedlt.synthesis.planted import COMBINED, plant
from raymedlt.synthesis.quality import NEIGHBOURS, compare
from raymedlt.synthesis.report import ClassReport, Figures, Likeness, Memorisation
from raymedlt.synthesis.report_words import kind_of

MOST = 300
"""Images of a class that figures compare, at most."""
RATIOS = 2000
"""Copy ratios of drawn images that the page shows, at most; of held-out ones a fifth, of planted ones a tenth."""


@dataclass
class Found:
    """What one pass over the tables collects."""

    drawn: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    ratios: list[float] = field(default_factory=list)
    images: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    """Accepted: the first MOST of each class."""
    targets: list[str] = field(default_factory=list)
    closest: list[tuple[float, int, bytes, int, str, list[str]]] = field(default_factory=list)
    """Accepted images closest to a training image, as a heap: -ratio, -number, file, nearest row, target, labels."""
    bad_images: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    """Refused: the first few of each reason."""
    bad_targets: list[str] = field(default_factory=list)
    bad_reasons: list[list[str]] = field(default_factory=list)


def collect(storage: Storage, shards: Sequence[str], refused_shown: int, pairs_shown: int) -> Found:
    """One pass over the run's tables `plan` and `images`, and what the gate noted beside them."""
    found, shown = Found(), Counter[str]()
    for shard in shards:
        plan = storage.read_table(f"plan/{shard}.parquet", ["target", "label_set"]).to_pylist()
        images = storage.read_table(f"images/{shard}.parquet").to_pylist()
        nearest = storage.read_table(f"_work/judged/{shard}.parquet", ["nearest"])["nearest"].to_pylist()
        for planned, row, near in zip(plan, images, nearest, strict=True):
            _add(found, shown, planned, row, near, refused_shown, pairs_shown)
    return found


def _add(
    found: Found,
    shown: Counter[str],
    planned: dict[str, Any],
    row: dict[str, Any],
    nearest: int,
    refused_shown: int,
    pairs_shown: int,
) -> None:
    target = planned["target"]
    ratio = {each["name"]: each["value"] for each in row["scores"]}.get("copy", float("nan"))
    found.drawn[target] += 1
    found.ratios.append(ratio)
    if row["accepted"]:
        found.accepted[target] += 1
        if found.accepted[target] <= MOST:
            found.images.append(pixels_of(row["image"]["bytes"]))
            found.targets.append(target)
        number = len(found.ratios)  # ties: the earlier one is closer
        close = (-ratio, -number, row["image"]["bytes"], nearest, target, planned["label_set"])
        (heapq.heappush if len(found.closest) < pairs_shown else heapq.heappushpop)(found.closest, close)
        return
    kinds = list(dict.fromkeys(kind_of(reason) for reason in row["reasons"]))
    found.refused[target].update(kinds)
    if any(shown[kind] < refused_shown for kind in kinds):
        shown.update(kinds)
        found.bad_images.append(pixels_of(row["image"]["bytes"]))
        found.bad_targets.append(target)
        found.bad_reasons.append(row["reasons"])


def pixels_of(data: bytes) -> npt.NDArray[np.uint8]:
    """The grey levels of one of the run's own PNG files, also of one that shows nothing."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


def class_reports(
    found: Found,
    plan: Plan,
    gate: Gate,
    examples: Examples,
    likeness: dict[str, Likeness],
    priors: Mapping[str, float],
) -> list[ClassReport]:
    """One per class of the plan, the rarest first."""
    validation = examples.rows(VALIDATION)
    shown_C = (examples.labels_NC[validation] * examples.known_NC[validation]).sum(0).astype(int)
    place = {name: number for number, name in enumerate(gate.agreement.classes)}
    reports = []
    for name, rows in plan.rows_of().items():
        number = plan.real.classes.index(name)
        own = place[name]
        reports.append(
            ClassReport(
                name=name,
                real=int(plan.real.counts_C[number]),
                planned=rows,
                drawn=found.drawn[name],
                accepted=found.accepted[name],
                refused=dict(found.refused[name]),
                likeness=likeness.get(name, Likeness(why="no accepted image")),
                validation=int(shown_C[number]),
                threshold=_finite(gate.agreement.shown_C[own]),
                gate_precision=_finite(gate.agreement.precision_C[own]),
                gate_recall=_finite(gate.agreement.recall_C[own]),
                prior=priors.get(name),
            )
        )
    return reports


def likenesses(found: Found, examples: Examples, *, seed: int, device: str) -> tuple[Likeness, dict[str, Likeness]]:
    """Of all accepted images, and of each class that has some: beside as many held-out real images of the class.

    Classes with many real images are represented by MOST drawn at random, accepted images by the first MOST of the
    plan, whose order says nothing about them. All together: the three sets have equally many images of each class, so
    that a difference in how common classes are is none in how real the images look. About 8 ms an image for the
    features.
    """
    if not found.images:
        return Likeness(why="no accepted image"), {}
    synthetic = np.stack(found.images)
    features = lite0_features(synthetic, device).astype(np.float64)
    targets = np.array(found.targets, object)
    real = _Real(examples, seed, device)
    rows = {
        name: [real.rows(TRAIN, name), real.rows(VALIDATION, name), np.flatnonzero(targets == name)]
        for name in dict.fromkeys(found.targets)
    }

    def likeness(key: str, sets: Sequence[Rows]) -> Likeness:
        train, held_out, own = sets
        if min(map(len, sets)) <= NEIGHBOURS:
            counts = f"{len(train)} real training, {len(held_out)} held-out and {len(own)} accepted images"
            return Likeness(why=f"{counts} {'show it' if key else 'in equal shares of the classes'}")
        own_figures, floor, compared = compare(
            real.take(train), real.take(held_out), (features[own], synthetic[own]), seed=seed, key=key
        )
        return Likeness(synthetic=Figures.of(own_figures), real=Figures.of(floor), compared=compared)

    return likeness("", same_mix(rows)), {name: likeness(name, sets) for name, sets in rows.items()}


def same_mix(rows: Mapping[str, Sequence[Rows]]) -> list[Rows]:
    """Rows of several sets, as many of each class from one set as from any other.

    Args:
        rows: class -> of each set the rows that show it, in an order that says nothing about them.

    A row that shows several classes stands for one of them; the class with the fewest rows chooses first.
    """
    chosen: list[list[int]] = [[] for _ in next(iter(rows.values()), ())]
    for name in sorted(rows, key=lambda name: (min(map(len, rows[name])), name)):
        free = [each[~np.isin(each, taken)] for each, taken in zip(rows[name], chosen, strict=True)]
        count = min(map(len, free))
        for taken, each in zip(chosen, free, strict=True):
            taken.extend(each[:count].tolist())
    return [np.array(each, np.int64) for each in chosen]


class _Real:
    """Features of real images, computed once per image that is asked for."""

    def __init__(self, examples: Examples, seed: int, device: str) -> None:
        self.examples, self.seed, self.device = examples, seed, device
        self.known: dict[int, npt.NDArray[np.float32]] = {}

    def rows(self, split: str, class_name: str) -> Rows:
        """MOST images of a split that show the class, drawn at random."""
        number = self.examples.classes.index(class_name)
        rows = self.examples.rows(split)
        rows = rows[(self.examples.labels_NC[rows, number] > 0) & self.examples.known_NC[rows, number]]
        chosen: Rows = rows[generator(self.seed, "likeness", split, class_name).permutation(len(rows))[:MOST]]
        return chosen

    def take(self, rows: Rows) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        """Features and images, sorted by row."""
        rows = np.sort(rows)
        missing: Rows = np.array([row for row in rows.tolist() if row not in self.known], np.int64)
        if len(missing):
            new = lite0_features(self.examples.pixels.take(missing), self.device)
            self.known |= dict(zip(missing.tolist(), new, strict=True))
        return np.stack([self.known[row] for row in rows.tolist()]).astype(np.float64), self.examples.pixels.take(rows)


def memorisation(found: Found, gate: Gate, examples: Examples, seed: int) -> Memorisation:
    """Ratios of drawn, of held-out real and of planted images, and how the search did when it was fitted.

    The planted ones are as those of the search's own trial (see copies.py), but fewer and drawn anew.
    """
    held_out = _some(examples.rows(VALIDATION), RATIOS // 5, seed, "held out")
    nearest = gate.copies.nearest(examples.pixels.take(np.sort(held_out)))
    rng = generator(seed, "memorisation", "planted")
    originals = examples.pixels.take(np.sort(_some(examples.rows(TRAIN), RATIOS // 10, seed, "originals")))
    planted = [plant(reduced(image), COMBINED[n % len(COMBINED)], rng) for n, image in enumerate(originals)]
    ratios = np.array(found.ratios)
    trial = gate.about["trial"]
    return Memorisation(
        threshold=gate.copies.threshold, synthetic_N=_some(ratios[np.isfinite(ratios)], RATIOS, seed, "drawn"),
        held_out_N=gate.copies.ratios(nearest),
        planted_N=gate.copies.ratios(gate.copies.nearest(np.stack(planted))),
        caught=Share(int(trial["caught"]), int(trial["planted"])),
        false_refusals=Share(int(gate.copies.are_copies(nearest).sum()), len(held_out)),
    )  # fmt: skip


def _some(values: npt.NDArray[Any], most: int, seed: int, key: str) -> npt.NDArray[Any]:
    return values[generator(seed, "memorisation", key).permutation(len(values))[:most]]


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
