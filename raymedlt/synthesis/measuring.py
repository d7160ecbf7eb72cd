"""What a finished run knows about its images: counts by class, likeness to real images, nearest neighbours, sheets.

Reads the run's tables shard by shard; of images it holds what pages show and what figures compare (MOST of each class).
"""

from __future__ import annotations

import heapq
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from raymedlt.images.examples import Examples, Rows
from raymedlt.schema import TRAIN, VALIDATION
from raymedlt.seeds import generator
from raymedlt.storage import Storage
from raymedlt.synthesis.features import lite0_features
from raymedlt.synthesis.gate import Gate
from raymedlt.synthesis.plan import Plan
from raymedlt.synthesis.quality import compare
from raymedlt.synthesis.report import ClassReport, Figures, Likeness, Memorisation, Share
from raymedlt.synthesis.sheets import kind_of

MOST = 300
"""Images of a class that figures compare, at most."""
RATIOS = 2000
"""Copy ratios of drawn images that the page shows, at most; of held-out ones a fifth."""


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
    found: Found, plan: Plan, gate: Gate, examples: Examples, likeness: dict[str, Likeness]
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
            )
        )
    return reports


def likenesses(found: Found, examples: Examples, *, seed: int, device: str) -> tuple[Likeness, dict[str, Likeness]]:
    """Of all accepted images, and of each class that has some: beside as many held-out real images of the class.

    Classes with many real images are represented by MOST drawn at random, accepted images by the first MOST of the
    plan, whose order says nothing about them. About 8 ms an image for the features.
    """
    if not found.images:
        return Likeness(why="no accepted image"), {}
    synthetic = np.stack(found.images)
    features = lite0_features(synthetic, device).astype(np.float64)
    targets = np.array(found.targets, object)
    real = _Real(examples, seed, device)
    every = _likeness(real, None, features, synthetic, seed)
    each = {
        name: _likeness(real, name, features[targets == name], synthetic[targets == name], seed)
        for name in dict.fromkeys(found.targets)
    }
    return every, each


class _Real:
    """Features of real images, computed once per image that is asked for."""

    def __init__(self, examples: Examples, seed: int, device: str) -> None:
        self.examples, self.seed, self.device = examples, seed, device
        self.known: dict[int, npt.NDArray[np.float32]] = {}

    def take(self, split: str, class_name: str | None) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        """Features and images of a class (or of all) in a split; MOST of them, drawn at random."""
        rows = self.examples.rows(split)
        if class_name is not None:
            number = self.examples.classes.index(class_name)
            rows = rows[(self.examples.labels_NC[rows, number] > 0) & self.examples.known_NC[rows, number]]
        chosen = np.sort(generator(self.seed, "likeness", split, class_name or "").permutation(len(rows))[:MOST])
        rows = rows[chosen]
        missing: Rows = np.array([row for row in rows.tolist() if row not in self.known], np.int64)
        if len(missing):
            new = lite0_features(self.examples.pixels.take(missing), self.device)
            self.known |= dict(zip(missing.tolist(), new, strict=True))
        found = [self.known[row] for row in rows.tolist()]
        features = np.stack(found) if found else np.zeros((0, 1))
        return features.astype(np.float64), self.examples.pixels.take(rows)


def _likeness(
    real: _Real, name: str | None, features: npt.NDArray[np.float64], images: npt.NDArray[np.uint8], seed: int
) -> Likeness:
    train, held_out = real.take(TRAIN, name), real.take(VALIDATION, name)
    few = min(len(train[0]), len(held_out[0]), len(features))
    if few <= 5:
        counts = f"{len(train[0])} real training, {len(held_out[0])} held-out and {len(features)} accepted images"
        return Likeness(why=f"{counts} show it")
    own, floor, compared = compare(train, held_out, (features, images), seed=seed, key=name or "")
    return Likeness(synthetic=Figures.of(own), real=Figures.of(floor), compared=compared)


def memorisation(found: Found, gate: Gate, examples: Examples, seed: int) -> Memorisation:
    """Ratios of drawn and of held-out real images, and how the search did on planted copies when it was fitted."""
    rows = examples.rows(VALIDATION)
    chosen = np.sort(generator(seed, "memorisation", "held out").permutation(len(rows))[: RATIOS // 5])
    nearest = gate.copies.nearest(examples.pixels.take(rows[chosen]))
    trial = gate.about["trial"]
    refused = int(gate.copies.are_copies(nearest).sum())
    ratios = np.array(found.ratios)
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios) > RATIOS:
        ratios = ratios[generator(seed, "memorisation", "drawn").permutation(len(ratios))[:RATIOS]]
    return Memorisation(
        threshold=gate.copies.threshold, synthetic_N=ratios, held_out_N=gate.copies.ratios(nearest),
        caught=Share(int(trial["caught"]), int(trial["planted"])), false_refusals=Share(refused, len(chosen)),
    )  # fmt: skip


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
