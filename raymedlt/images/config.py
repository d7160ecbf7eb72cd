"""Sections of configuration that jobs over images share: where they come from, who has what, who is trained on.

See raymedlt/config.py: frozen dataclasses, a docstring under each field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raymedlt.config import refuse_credentials, require


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """The chest X-rays, and how they are made ready."""

    path: str | None = None
    """Folder or URI of PNG (8 or 16 bit), JPEG or DICOM files. Default: the procedural phantom draws the images."""
    size: int = 64
    """Height and width of the prepared images, pixels."""
    fit: Literal["pad", "crop"] = "pad"
    """How an image becomes square: pad keeps all of it, with black edges; crop cuts the longer side's ends off."""
    max_pixels: int = 50_000_000
    """An image with more pixels is rejected before it is decoded (decompression bombs)."""
    shard_images: int = 256
    """Images per shard: the unit that is read, written, resumed and retried."""

    def __post_init__(self) -> None:
        refuse_credentials("images.path", self.path)
        require(self.size >= 32, "images.size", self.size, "at least 32 pixels")
        require(self.max_pixels > 0, "images.max_pixels", self.max_pixels, "a positive number of pixels")
        require(self.shard_images >= 1, "images.shard_images", self.shard_images, "at least 1")


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """The procedural phantom: X-rays drawn by code from label sets. Used where images.path is not given."""

    images: int = 4000
    """Training and validation images, with the long tail of the real label table."""
    test_images: int = 1000
    """Test images before the tail is topped up."""
    test_positives: int = 100
    """Test images are added until each class has so many positives (average precision of five cases says nothing)."""
    classes: int = 20
    """So many of the classes of the label table that the phantom can draw, at most."""
    pick: Literal["spread", "commonest"] = "spread"
    """Which: spread evenly from the commonest to the rarest (keeps the long tail), or the commonest."""
    prevalence: Literal["padchest", "nih14", "openi"] = "padchest"
    """The real label table whose frequencies and co-occurrences the label sets follow."""

    def __post_init__(self) -> None:
        require(self.images >= 100, "phantom.images", self.images, "at least 100")
        require(self.test_images >= 1, "phantom.test_images", self.test_images, "at least 1")
        require(self.test_positives >= 0, "phantom.test_positives", self.test_positives, "0 or more")
        require(self.classes >= 2, "phantom.classes", self.classes, "at least 2")


@dataclass(frozen=True, kw_only=True)
class ImageLabelsConfig:
    """Who has what: the label table of the images."""

    path: str | None = None
    """CSV file (also .csv.gz) or Parquet file or URI, one row per image. Needed with images.path."""
    format: Literal["auto", "nih14", "padchest", "chexpert", "mimic", "cxr_lt", "csv"] = "auto"
    """How the table is laid out. auto: by its column names. csv: see labels.columns."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column name (image, patient_id, study_id, split, view, source, labels) -> the table's. Without labels, every
    other column that holds only 0, 1, -1 and blanks is a class (one-hot)."""
    separator: str = "|"
    """Between labels in one cell."""
    classes: list[str] | None = None
    """The classes to learn. Default: all of the table with at least labels.min_positives training images."""
    min_positives: int = 10
    """A class with fewer positive training images is left out, and said so."""
    uncertain: Literal["ignore", "positive", "negative"] = "ignore"
    """What an uncertain label (-1) counts as. ignore: it has no part in loss and metrics."""

    def __post_init__(self) -> None:
        refuse_credentials("labels.path", self.path)
        require(len(self.separator) >= 1, "labels.separator", self.separator, "at least one character")
        require(self.min_positives >= 1, "labels.min_positives", self.min_positives, "at least 1")
        require(self.classes is None or len(self.classes) >= 1, "labels.classes", self.classes, "at least one class")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Who is trained on. A label table with its own splits keeps them; a patient in two of them fails the run."""

    validation: float = 0.1
    """Share of the patients for model selection, thresholds and calibration."""
    test: float = 0.2
    """Share of the patients for the one final scoring."""
    head_above: float = 0.10
    """A class in more than this share of the training images belongs to the head."""
    tail_up_to: float = 0.01
    """A class in at most this share of the training images belongs to the tail."""

    def __post_init__(self) -> None:
        require(0 < self.validation < 1, "split.validation", self.validation, "a share in (0, 1)")
        require(0 < self.test < 1, "split.test", self.test, "a share in (0, 1)")
        require(self.validation + self.test < 1, "split.test", self.test, "less than 1 - split.validation")
        require(
            0 <= self.tail_up_to < self.head_above < 1,
            "split.tail_up_to",
            self.tail_up_to,
            "0 <= tail_up_to < head_above < 1",
        )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of the training images; every one depends on seed, epoch and image id only."""

    rotate: float = 8.0
    """At most so many degrees either way."""
    shift: float = 0.06
    """At most this share of the width and height."""
    scale: float = 0.1
    """At most this share larger or smaller."""
    contrast: float = 0.2
    """Brightness and contrast change by at most this share."""
    noise: float = 0.02
    """Largest standard deviation of Gaussian noise (pixel values are 0 to 1)."""
    dropout: float = 0.1
    """Share of the images that lose a few rectangles (coarse dropout)."""
    clahe: float = 0.1
    """Share of the images whose local contrast is equalised (CLAHE)."""
    flip: bool = False
    """Horizontal flips. Off: they swap left and right."""

    def __post_init__(self) -> None:
        for name in ("rotate", "shift", "scale", "contrast", "noise"):
            require(getattr(self, name) >= 0, f"augment.{name}", getattr(self, name), "0 or more")
        for name in ("dropout", "clahe"):
            require(0 <= getattr(self, name) <= 1, f"augment.{name}", getattr(self, name), "a share in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """All that the prepared, split and labelled images of a run follow from (see stages.py)."""

    images: ImagesConfig = field(default_factory=ImagesConfig)
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    labels: ImageLabelsConfig = field(default_factory=ImageLabelsConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    seed: int = 0
    synthetic: str | None = None
    """Run folder of jobs/synthesize.py, whose images become training images."""
    accepted_only: bool = True
    """Leave out what its gate refused."""
    workers: int = 1
    """Processes or threads that prepare images side by side."""
    ray_from: int = 5_000
    """From this many images on, Ray's worker processes prepare them; 0: always."""
    max_rejected: int | None = None
    """Fail when more rows than this are rejected."""
