"""Contact sheets: accepted images, refused ones with their reasons, and accepted ones beside their nearest real image.

Sheets hold the first images of the plan, not chosen ones; pairs are the closest, which are the ones to look at. How the
page shows them: page_sheets.py.

Shape suffixes: N images, S height and width of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymedlt.synthesis.report_words import kind_of

Bytes = npt.NDArray[np.uint8]

ACCEPTED_SHOWN, REFUSED_SHOWN, PAIRS_SHOWN = 16, 6, 24  # per class, per reason, in all


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
    """Its kind (see report_words.kind_of)."""
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
    """See report.Memorisation."""
    labels: Sequence[str] = ()
    """The image's planned label set."""


def accepted_sheets(
    images_NSS: Bytes, targets: Sequence[str], totals: dict[str, int], most: int = ACCEPTED_SHOWN
) -> list[ClassSheet]:
    """A sheet per class, in the order in which classes first occur.

    Args:
        images_NSS: accepted images in the order of the plan; all of them, or the first `most` of each class.
        targets: the class that each is for.
        totals: class -> accepted images of the whole run.
    """
    rows = _rows_by(targets)
    return [
        ClassSheet(class_name=name, images_NSS=images_NSS[own[:most]], total=totals[name]) for name, own in rows.items()
    ]


def refused_sheets(
    images_NSS: Bytes,
    targets: Sequence[str],
    reasons: Sequence[Sequence[str]],
    totals: dict[str, int],
    most: int = REFUSED_SHOWN,
) -> list[RefusedSheet]:
    """A sheet per kind of reason, the commonest first. An image with several reasons is on each's sheet.

    Args:
        images_NSS: refused images in the order of the plan; all of them, or the first `most` of each reason.
        targets, reasons: of each image.
        totals: reason -> refused images of the whole run, as in `Report.reasons`.
    """
    rows: dict[str, list[int]] = {}
    for row, own in enumerate(reasons):
        for kind in dict.fromkeys(kind_of(reason) for reason in own):
            rows.setdefault(kind, []).append(row)
    ranked = sorted(rows, key=lambda kind: (-totals[kind], kind))
    return [
        RefusedSheet(
            reason=kind,
            images_NSS=images_NSS[rows[kind][:most]],
            notes=[targets[row] for row in rows[kind][:most]],
            total=totals[kind],
        )
        for kind in ranked
    ]


def nearest_pairs(
    images_NSS: Bytes,
    nearest_NSS: Bytes,
    targets: Sequence[str],
    label_sets: Sequence[Sequence[str]],
    ratios_N: npt.ArrayLike,
    most: int = PAIRS_SHOWN,
) -> list[NearestPair]:
    """The closest pairs of accepted images and real training images, the closest first.

    Args:
        nearest_NSS: beside each accepted image the real training image that is nearest to it.
        ratios_N: see report.Memorisation.
    """
    ratios = np.asarray(ratios_N, np.float64)
    return [
        NearestPair(
            class_name=targets[row], image_SS=images_NSS[row], nearest_SS=nearest_NSS[row], ratio=float(ratios[row]),
            labels=label_sets[row],
        )
        for row in np.argsort(ratios, kind="stable")[:most].tolist()
    ]  # fmt: skip


def _rows_by(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        found.setdefault(name, []).append(row)
    return found
