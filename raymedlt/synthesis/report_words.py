"""Wordings that the synthesize job's page, cards and warnings share."""

from __future__ import annotations

from raymedlt.synthesis.agreement import NOT_SHOWN, STRAY, UNKNOWN, UNPLANNED, UNTUNED

NOT_PATIENTS = (
    "Images made by a model: they show no patient and prove nothing. For training research models only, never for"
    " diagnosis, never among validation or test images."
)
PHANTOM = (
    "The real images here are themselves drawn by code (the procedural phantom), not patients'. The figures compare"
    " methods; they say nothing about real chest X-rays."
)
UNDEFINED = "not defined"
MEASURES = {
    "precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage", "ms_ssim": "MS-SSIM",
}  # fmt: skip
"""KID's companions: fields of report.Figures -> names."""


def kind_of(reason: str) -> str:
    """A reason of the gate without the class that it is about: "too few validation images of: mass" without " of"."""
    return reason.partition(": ")[0].removesuffix(" of")


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
    kind_of(UNTUNED): "the gate has no threshold for the class",
    UNKNOWN: "the gate's classifier was not trained on the class",
    UNPLANNED: "the row has no label set",
}
"""Kind of reason -> what it means."""


def number(value: float | None) -> str:
    """Three digits; "not defined" for None."""
    return UNDEFINED if value is None else f"{value:.3g}".replace("-", "−")
