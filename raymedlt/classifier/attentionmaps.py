"""Attention maps over test images, for the page.

Shape suffixes: S height and width of an image, H and W of an attention map.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raymedlt.classifier.report import Floats, Report
from raymedlt.runreport.page import Block, Card, Gallery, Paragraph, Picture
from raymedlt.runreport.pictures import png, shrunk

PICTURE_PIXELS = 160  # longest side of an image on the page


def overlay(image_SS: npt.NDArray[np.uint8], map_HW: Floats, alpha: float = 0.6) -> bytes:
    """A PNG of the grey image with the map over it: bilinearly enlarged, yellow to red, the more opaque the higher.

    Args:
        image_SS: uint8 [S, S].
        map_HW: not negative, of any size; it is divided by its largest value. A map of zeros leaves the image grey.
        alpha: opacity at the highest place, in [0, 1].
    """
    from PIL import Image

    largest = float(np.max(map_HW))
    unit_HW = np.asarray(map_HW, np.float32) / (largest if largest > 0 else 1)
    height, width = image_SS.shape
    enlarged = Image.fromarray(unit_HW).resize((width, height), Image.Resampling.BILINEAR)
    heat_SS1 = np.clip(np.asarray(enlarged), 0, 1)[..., None]
    colour_SS3 = np.array([255, 214, 64]) * (1 - heat_SS1) + np.array([224, 36, 28]) * heat_SS1
    mixed_SS3 = image_SS[..., None] * (1 - alpha * heat_SS1) + colour_SS3 * (alpha * heat_SS1)
    return png(np.round(mixed_SS3).astype(np.uint8))


def map_blocks(report: Report) -> list[Block]:
    """The page's section: each example as it is, and with the map over it."""
    if not report.maps:
        return [Paragraph("No attention maps: the network has no class-aware attention, or none were asked for.")]
    cards = []
    for example in report.maps:
        image = shrunk(example.image_SS, PICTURE_PIXELS)
        words = f"test image {example.image_id}"
        cards.append(
            Card(
                title=example.class_name,
                tag="true positive" if example.positive else "false positive",
                pictures=[
                    Picture(png=png(image), alt=f"{words} as it is"),
                    Picture(png=overlay(image, example.map_HW), alt=f"{words}, attention of {example.class_name}"),
                ],
                lines=[
                    ("Probability", f"{example.probability:.{0 if example.probability >= 0.1 else 1}%}"),
                    ("Image shows", ", ".join(example.truth) or "none of the classes"),
                    ("Image", example.image_id),
                ],
            )
        )  # fmt: skip
    return [
        Paragraph(
            "Test images on which a rare finding was called, rightly and wrongly: the image as it is, and with the"
            " class's attention over it (from yellow to red where the class's score took more of its features from)."
            " Attention shows where features were weighed, not why: a map on the right spot is no proof of a right"
            " reason, and one beside it is a reason to doubt."
        ),
        Gallery(
            cards=cards,
            caption="These are images of the test set: keep this page where the images may be kept.",
        ),
    ]
