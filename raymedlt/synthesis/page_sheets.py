"""The page's contact sheets: three panels of pictures (see sheets.py).

Shape suffixes: N images, S height and width of an image.
"""

from __future__ import annotations

import math

import numpy as np

from raymedlt.runreport.page import Block, Card, Gallery, Paragraph, Picture, Switch
from raymedlt.runreport.pictures import png, shrunk
from raymedlt.synthesis.report import Report
from raymedlt.synthesis.report_words import REASONS
from raymedlt.synthesis.sheets import Bytes

TILE_PIXELS = 96  # longest side of an image on the page
GAP_PIXELS = 2


def contact_sheet(images_NSS: Bytes, columns: int) -> Bytes:
    """The images row by row, uint8, with black between them; places that are left over stay black.

    Args:
        images_NSS: uint8, at least one; larger ones than TILE_PIXELS are shrunk to it.
    """
    tiles = [shrunk(image, TILE_PIXELS) for image in images_NSS]
    side = len(tiles[0])
    rows = -(-len(tiles) // columns)
    step = side + GAP_PIXELS
    sheet = np.zeros((rows * step - GAP_PIXELS, columns * step - GAP_PIXELS), np.uint8)
    for place, image in enumerate(tiles):
        top, left = step * (place // columns), step * (place % columns)
        sheet[top : top + side, left : left + side] = image
    return sheet


def sheet_blocks(report: Report) -> list[Block]:
    """Three panels: accepted by class, refused by reason, pairs."""
    return [
        Switch(
            [
                ("Accepted", _accepted_blocks(report)),
                ("Refused", _refused_blocks(report)),
                ("Nearest real image", _pair_blocks(report)),
            ]
        )
    ]


def _accepted_blocks(report: Report) -> list[Block]:
    if not report.accepted_sheets:
        return [Paragraph("No image was accepted.")]
    cards = []
    for sheet in report.accepted_sheets:
        shown = len(sheet.images_NSS)
        sheet_png = png(contact_sheet(sheet.images_NSS, math.ceil(math.sqrt(shown))))
        words = f"{shown} synthetic images that were accepted for {sheet.class_name}"
        cards.append(
            Card(
                title=sheet.class_name,
                pictures=[Picture(png=sheet_png, alt=words)],
                lines=[("Shown", f"{shown} of {sheet.total:,} accepted")],
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
            pictures=[
                Picture(png=_tile(image), alt=f"synthetic image refused: {sheet.reason}", note=note)
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
                Picture(png=_tile(pair.image_SS), alt="accepted synthetic image", note="synthetic"),
                Picture(png=_tile(pair.nearest_SS), alt="nearest real training image", note="real, nearest"),
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


def _tile(image_SS: Bytes) -> bytes:
    return png(shrunk(image_SS, TILE_PIXELS))
