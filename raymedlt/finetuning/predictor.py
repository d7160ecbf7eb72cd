"""Use of a finished model: `load(folder).generate(images)`. The folder is an export's, see export.py.

B images, S pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from raymedlt.errors import InputError
from raymedlt.finetuning.export import FILE, ExportSettings, load_export
from raymedlt.finetuning.generation import Writer, Writing, write
from raymedlt.images.given import Image, all_squares_of, squares_of
from raymedlt.storage import Storage, sha256_of

MODEL = "model"
"""Folder of the export in a run's output."""


@dataclass(frozen=True, eq=False)
class ReportWriter:
    """A finished model. Make it with `load`."""

    writer: Writer
    settings: ExportSettings
    """How it was asked in training, and what its images were."""

    def prepare(self, images: Iterable[Image]) -> npt.NDArray[np.uint8]:
        """Images as the model wants them, uint8 [B, S, S].

        Args:
            images: each the path or URI of a PNG, JPEG or DICOM file, its bytes, a Pillow image, or an array [H, W]:
                uint8, or float in [0, 1], black is air.

        Raises:
            InputError: images that can't be read; the message gives their positions and reasons.
        """
        return all_squares_of(images, **self._squares)

    def generate(
        self, images: Iterable[Image], *, max_tokens: int | None = None, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """What the model writes for each image. Images and errors as `prepare`.

        A report doesn't depend on the other images: batches have one fixed shape.

        Args:
            max_tokens: a report ends here at the latest. Default: as in the run that made the model.
            temperature: 0: the likeliest word each time; else words are drawn.
            seed: of the draws, which are keyed by the image's content too.
        """
        return self._texts(self.prepare(images), max_tokens, temperature, seed)

    def generate_each(
        self,
        images: Iterable[Image | None],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> tuple[list[str | None], list[str]]:
        """As `generate`, but an image that can't be read doesn't stop the others.

        Returns:
            The texts, None for such an image; and for each image "" or the reason.
        """
        squares, reasons = squares_of(images, **self._squares)
        texts = iter(self._texts(np.stack(squares), max_tokens, temperature, seed) if squares else [])
        return [None if reason else next(texts) for reason in reasons], reasons

    @property
    def _squares(self) -> dict[str, Any]:
        own = self.settings
        return {"size": own.image_size, "fit": own.fit, "max_pixels": own.max_pixels}

    def _texts(
        self, images_BSS: npt.NDArray[np.uint8], max_tokens: int | None, temperature: float, seed: int
    ) -> list[str]:
        if temperature < 0 or (max_tokens is not None and max_tokens < 1):
            raise InputError(
                f"temperature {temperature}, max_tokens {max_tokens}", "a temperature of 0 or more, at least 1 token"
            )
        own = self.settings
        how = Writing(own.batch, own.max_tokens, temperature, seed, own.precision)
        if max_tokens is not None:
            how = dataclasses.replace(how, max_tokens=max_tokens)
        keys = [sha256_of(image.tobytes()) for image in images_BSS]
        return [report.text for report in write(self.writer, images_BSS, keys, how)]


def load(folder: str, device: str = "cpu") -> ReportWriter:
    """A model from the output folder of jobs/finetune.py, its folder `model`, or an export; a path or URI.

    Raises:
        InputError: there is no finished model, or one of another version.
    """
    model, processing, settings = load_export(_export_of(folder), device=device)
    return ReportWriter(Writer(model, processing, device), settings)


def writer_of(folder: str, device: str = "cpu") -> Writer:
    """The model alone, for shards: `functools.partial(writer_of, folder, device)` is picklable. Errors as `load`."""
    return load(folder, device).writer


def _export_of(folder: str) -> str:
    if Storage.of(folder).exists(FILE):
        return folder
    if Storage.of(folder).sub(MODEL).exists(FILE):
        if "://" not in folder:
            return f"{folder}/{MODEL}"
        parts = urlsplit(folder)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{MODEL}").geturl()
    raise InputError(
        f"no {FILE} in '{Storage.of(folder).uri}'",
        "the output folder of a finished run of jobs/finetune.py, or an export of it",
        "let the run finish: give its command again",
    )
