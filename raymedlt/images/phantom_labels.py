"""The phantom's findings, and how often each set of them occurs in a real label table.

The tables come inside the torchxrayvision package and are read from there: PadChest (frontal images only), NIH
ChestX-ray14, and the MeSH codes of OpenI, one row per report. `phantom_findings.csv` says which labels of which table
mean which finding of the phantom, on which sides a finding can be, and how often it is on each (from the sides that
PadChest's label sentences name).
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raymedlt.errors import InputError, MissingDependencyError
from raymedlt.reports.readers.openi import OpenIReader
from raymedlt.reports.readers.packaged import packaged_root
from raymedlt.reports.readers.padchest import parse_labels

Side = Literal["left", "right", "both", ""]
Prevalence = Literal["padchest", "nih14", "openi"]
PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
NIH14 = "Data_Entry_2017_v2020.csv.gz"
_FRONTAL = ("PA", "AP", "AP_horizontal")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an image shows."""

    name: str
    """One of FINDINGS."""
    side: Side = ""
    """The patient's side; "" where the finding has none, or means both where it can be on both."""
    severity: float = 0.5
    """In (0, 1]: from hardly visible to plain. Of a device: how opaque it is."""

    def __post_init__(self) -> None:
        if self.name not in FINDINGS:
            raise InputError(f"the finding {self.name!r}", f"one of {list(FINDINGS)}")
        sides = FINDINGS[self.name].sides
        if self.side not in (sides or ("",)) and not (self.side == "" and "both" in sides):
            raise InputError(f"{self.name} on side {self.side!r}", f"one of {list(sides or ('',))}")
        if not 0 < self.severity <= 1:
            raise InputError(f"{self.name} of severity {self.severity}", "a number in (0, 1]")


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of phantom_findings.csv."""

    region: str  # "devices", "heart", "lungs", "pleura", "diaphragm", "bones"
    sides: tuple[str, ...]
    side_weights: tuple[float, float, float]  # left, right, both
    bedridden: bool  # its patients lie in bed: mostly AP views
    mentioned: float  # probability that a text says that it is absent; 0: no text ever does
    unless: frozenset[str]  # its absence is not stated beside these, which look alike or bring it about
    labels: dict[str, tuple[str, ...]]  # per label table: the labels that mean this finding


def _kinds() -> dict[str, Kind]:
    with resources.files("raymedlt.images").joinpath("phantom_findings.csv").open(encoding="utf-8") as file:
        return {
            row["name"]: Kind(
                row["region"],
                tuple(row["sides"].split()),
                (float(row["left"]), float(row["right"]), float(row["both"])),
                row["bedridden"] == "yes",
                float(row["mentioned"]),
                frozenset(filter(None, row["unless"].split("|"))),
                {table: tuple(filter(None, row[table].split("|"))) for table in ("padchest", "nih14", "openi")},
            )
            for row in csv.DictReader(file)
        }


FINDINGS: dict[str, Kind] = _kinds()
BEDRIDDEN = frozenset(name for name, kind in FINDINGS.items() if kind.bedridden)


@dataclass(frozen=True, slots=True)
class LabelSets:
    """How often each set of findings occurs in a label table.

    Rows are the table's images (of OpenI: reports). Findings that were not chosen are left out of the sets.
    """

    names: tuple[str, ...]  # C classes, the commonest first
    sets: NDArray[np.bool_]  # [D, C] distinct sets, the commonest first
    counts: NDArray[np.int64]  # [D]
    skipped: int  # malformed rows

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """[C]: share of the rows with each class."""
        return np.asarray(self.counts @ self.sets / self.counts.sum(), np.float64)


def label_sets(prevalence: Prevalence, classes: int, pick: Literal["commonest", "spread"] = "commonest") -> LabelSets:
    """The label table's sets of findings, restricted to `classes` of those that the phantom can draw.

    Args:
        classes: how many, at most.
        pick: the commonest ones; or spread evenly over the order of frequency, the commonest and the rarest among
            them, which keeps the long tail where few classes are wanted.

    Raises:
        MissingDependencyError: the package torchxrayvision isn't there.

    Memory: the distinct sets (PadChest: some thousands). Time: PadChest 5 s, once per process.
    """
    counted, skipped = _counted(prevalence)
    total: Counter[str] = Counter()
    for names, count in counted:
        for name in names:
            total[name] += count
    order = sorted(total, key=lambda name: (-total[name], name))
    if pick == "spread" and classes < len(order):
        order = [order[round(i)] for i in np.linspace(0, len(order) - 1, classes)]
    chosen = tuple(order[:classes])
    place = {name: i for i, name in enumerate(chosen)}
    restricted: Counter[tuple[int, ...]] = Counter()
    for names, count in counted:
        restricted[tuple(sorted(place[name] for name in names if name in place))] += count
    ranked = sorted(restricted.items(), key=lambda item: (-item[1], item[0]))
    sets = np.zeros((len(ranked), len(chosen)), np.bool_)
    for row, (members, _) in enumerate(ranked):
        sets[row, list(members)] = True
    return LabelSets(chosen, sets, np.array([count for _, count in ranked], np.int64), skipped)


@lru_cache(maxsize=3)
def _counted(prevalence: Prevalence) -> tuple[tuple[tuple[frozenset[str], int], ...], int]:
    """Distinct sets of drawable findings with their counts, and the number of malformed rows."""
    meaning: dict[str, list[str]] = {}
    for name, kind in FINDINGS.items():
        for label in kind.labels[prevalence]:
            meaning.setdefault(label.lower(), []).append(name)
    counts: Counter[frozenset[str]] = Counter()
    skipped = 0
    try:
        for labels in {"padchest": _padchest, "nih14": _nih14, "openi": _openi}[prevalence]():
            if labels is None:
                skipped += 1
            else:
                counts[frozenset(name for label in labels for name in meaning.get(label.lower(), ()))] += 1
    except (InputError, FileNotFoundError):
        raise MissingDependencyError(
            f"no label table for phantom.prevalence '{prevalence}'",
            "the package torchxrayvision, which carries it",
            "pip install 'torchxrayvision>=1.5,<2'",
        ) from None
    ordered = sorted(counts.items(), key=lambda item: sorted(item[0]))
    return tuple(ordered), skipped


def _rows(name: str) -> Iterator[dict[str, str]]:
    with packaged_root().open_input(name) as raw, gzip.open(raw, "rt", encoding="utf-8", newline="") as text:
        yield from csv.DictReader(text)


def _padchest() -> Iterator[Sequence[str] | None]:
    cached: dict[str, list[str] | None] = {}
    for row in _rows(PADCHEST):
        if row["Projection"] not in _FRONTAL:
            continue
        cell = row["Labels"] or ""
        if cell not in cached:
            cached[cell] = parse_labels(cell) if cell.startswith("[") else None
        labels = cached[cell]
        yield None if labels is not None and "exclude" in labels else labels


def _nih14() -> Iterator[Sequence[str] | None]:
    for row in _rows(NIH14):
        cell = row["Finding Labels"]
        yield cell.split("|") if cell else None


def _openi() -> Iterator[Sequence[str] | None]:
    reader = OpenIReader()
    for unit in reader.units():
        for table in reader.read(unit):
            for major in table.column("labels").to_pylist():
                yield None if not major else [label for code in major for label in _heads(code)]


def _heads(code: str) -> list[str]:
    """ "Opacity/lung/base/left" means "Opacity", "Opacity/lung", "Opacity/base" and "Opacity/left"."""
    head, *rest = code.split("/")
    return [head, *(f"{head}/{part}" for part in rest)]
