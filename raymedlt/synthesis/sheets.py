"""Contact sheets: accepted images, refused ones with their reasons, and accepted ones beside their nearest real image.

Sheets show the first images of the plan, not chosen ones; pairs show the closest, which are the ones to look at.

Shape suffixes: N images, S height and width of an image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raymedlt.runreport.page import Block, Card, Gallery, Paragraph, Picture, Switch
from raymedlt.synthesis.report import REASONS, Bytes, ClassSheet, NearestPair, RefusedSheet, Report

TILE_PIXELS = 96  # longest side of an image on the page
GAP_PIXELS = 2
ACCEPTED_SHOWN, REFUSED_SHOWN, PAIRS_SHOWN = 16, 6, 24  # per class, per reason, in all


def contact_sheet(images_NSS: Bytes, columns: int, tile: int = TILE_PIXELS) -> bytes:
    """A grey PNG with the images row by row, black between them; places that are left over stay black.

    Args:
        images_NSS: uint8, at least one; larger ones than `tile` are shrunk to it.
    """
    tiles = [shrunk(image, tile) for image in images_NSS]
    side = len(tiles[0])
    rows = -(-len(tiles) // columns)
    step = side + GAP_PIXELS
    sheet = np.zeros((rows * step - GAP_PIXELS, columns * step - GAP_PIXELS), np.uint8)
    for place, image in enumerate(tiles):
        top, left = step * (place // columns), step * (place % columns)
        sheet[top : top + side, left : left + side] = image
    return png(sheet)


def shrunk(image_SS: Bytes, pixels: int = TILE_PIXELS) -> Bytes:
    """The image at `pixels` a side, if it is larger."""
    from PIL import Image

    if len(image_SS) <= pixels:
        return image_SS
    return np.asarray(Image.fromarray(image_SS).resize((pixels, pixels), Image.Resampling.LANCZOS))


def png(image: Bytes) -> bytes:
    """A grey PNG without metadata."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return file.getvalue()


# From the run's images to what is shown


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
    """A sheet per reason (without its class), the commonest first. An image with several reasons is on each's sheet.

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
        ratios_N: see `Memorisation`.
    """
    ratios = np.asarray(ratios_N, np.float64)
    return [
        NearestPair(
            class_name=targets[row], image_SS=images_NSS[row], nearest_SS=nearest_NSS[row], ratio=float(ratios[row]),
            labels=label_sets[row],
        )
        for row in np.argsort(ratios, kind="stable")[:most].tolist()
    ]  # fmt: skip


def kind_of(reason: str) -> str:
    """The reason without the class that it is about."""
    return reason.partition(": ")[0]


def _rows_by(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        found.setdefault(name, []).append(row)
    return found


# The page's section


def sheet_blocks(report: Report) -> list[Block]:
    """Three panels: accepted by class, refused by reason, pairs."""
    panels = [
        ("Accepted", _accepted_blocks(report)),
        ("Refused", _refused_blocks(report)),
        ("Nearest real image", _pair_blocks(report)),
    ]
    return [Switch([(name, blocks) for name, blocks in panels])]


def _accepted_blocks(report: Report) -> list[Block]:
    if not report.accepted_sheets:
        return [Paragraph("No image was accepted.")]
    cards = []
    for sheet in report.accepted_sheets:
        shown = len(sheet.images_NSS)
        columns = max(1, int(np.ceil(np.sqrt(shown))))
        words = f"{shown} synthetic images that were accepted for {sheet.class_name}"
        cards.append(
            Card(
                title=sheet.class_name,
                pictures=[Picture(png=contact_sheet(sheet.images_NSS, columns), alt=words)],
                lines=[("Shown", f"the first {shown} of {sheet.total:,} accepted")],
            )
        )
    return [
        Paragraph(
            "The first accepted images of each class, in the order of the plan; nobody picked them. An image may show"
            " other classes of its label set as well."
        ),
        Gallery(cards=cards, caption="Synthetic images, shrunk where they are larger than the sheet's places."),
    ]


def _refused_blocks(report: Report) -> list[Block]:
    if not report.refused_sheets:
        return [Paragraph("No image was refused.")]
    drawn = report.acceptance.whole
    cards = [
        Card(
            title=sheet.reason,
            tag="refused",
            pictures=[
                Picture(png=png(shrunk(image)), alt=f"synthetic image refused: {sheet.reason}", note=note)
                for image, note in zip(sheet.images_NSS, sheet.notes, strict=True)
            ],
            lines=[
                ("Refused", f"{sheet.total:,} of {drawn:,} drawn"),
                *([("Means", REASONS[sheet.reason])] if sheet.reason in REASONS else []),
            ],
        )
        for sheet in report.refused_sheets
    ]  # fmt: skip
    return [
        Paragraph(
            "The first refused images of each reason. An image with several reasons is shown under each of them."
        ),
        Gallery(cards=cards),
    ]


def _pair_blocks(report: Report) -> list[Block]:
    if not report.pairs:
        return [Paragraph("No pairs: no image was accepted, or nearest training images were not looked up.")]
    limit = f" It is refused below {report.memorisation.threshold:.2f}." if report.memorisation else ""
    cards = [
        Card(
            title=pair.class_name,
            pictures=[
                Picture(png=png(shrunk(pair.image_SS)), alt="accepted synthetic image", note="synthetic"),
                Picture(png=png(shrunk(pair.nearest_SS)), alt="nearest real training image", note="real, nearest"),
            ],
            lines=[
                ("Ratio", f"{pair.ratio:.2f}"),
                ("Planned", ", ".join(pair.labels) or pair.class_name),
            ],
        )
        for pair in report.pairs
    ]
    return [
        Paragraph(
            "Accepted images beside the real training image that is nearest to them, the closest pairs first. Look for"
            " the same patient: the same ribs, the same devices, the same outline. Ratio: their distance, as a share of"
            f" what it is for a real image of another patient.{limit}"
        ),
        Gallery(
            cards=cards,
            caption="The right-hand images are real training images: keep this page where these may be kept.",
        ),
    ]
