"""Use of a finished model: `load(folder).generate(images)`.

    model/raymedlt.json        image size and how images are fitted, how reports are written
    model/                     the model as transformers keeps it, LoRA merged, safetensors (see export.py)

B images, S pixels.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raymedlt.errors import InputError
from raymedlt.finetuning.export import ABOUT, FORMAT, MODEL, load_export
from raymedlt.finetuning.generation import Writer, Writing, write
from raymedlt.images.given import Image, all_squares_of, squares_of
from raymedlt.storage import Storage, sha256_of


@dataclass(frozen=True, eq=False)
class ReportWriter:
    """A finished model. Make it with `load`."""

    writer: Writer
    about: dict[str, Any]
    """raymedlt.json: format, images (size, fit, max_pixels), generation (batch, max_tokens, precision), text (prompt,
    format)."""

    @property
    def size(self) -> int:
        """S, what images are made into."""
        return int(self.about["images"]["size"])

    def prepare(self, images: Iterable[Image]) -> npt.NDArray[np.uint8]:
        """Images as the model wants them, uint8 [B, S, S].

        Args:
            images: each the path or URI of a PNG, JPEG or DICOM file, its bytes, a Pillow image, or an array [H, W]:
                uint8, or float in [0, 1], black is air.

        Raises:
            InputError: images that can't be read; the message gives their positions and reasons.
        """
        return all_squares_of(images, **self.about["images"])

    def generate(
        self, images: Iterable[Image], *, max_tokens: int | None = None, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """What the model writes for each image. Images and errors as `prepare`.

        A report doesn't depend on the other images: batches have one fixed shape.

        Args:
            max_tokens: a report ends here at the latest. Default: as in training.
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
        squares, reasons = squares_of(images, **self.about["images"])
        texts = iter(self._texts(np.stack(squares), max_tokens, temperature, seed) if squares else [])
        return [None if reason else next(texts) for reason in reasons], reasons

    def _texts(
        self, images_BSS: npt.NDArray[np.uint8], max_tokens: int | None, temperature: float, seed: int
    ) -> list[str]:
        if temperature < 0 or (max_tokens is not None and max_tokens < 1):
            raise InputError(
                f"temperature {temperature}, max_tokens {max_tokens}", "a temperature of 0 or more, at least 1 token"
            )
        how = Writing(**self.about["generation"], temperature=temperature, seed=seed)
        if max_tokens is not None:
            how = dataclasses.replace(how, max_tokens=max_tokens)
        keys = [sha256_of(image.tobytes()) for image in images_BSS]
        return [report.text for report in write(self.writer, images_BSS, keys, how)]


def load(folder: str, device: str = "cpu") -> ReportWriter:
    """A model from the output folder of jobs/finetune.py, its folder `model`, or an export; a path or URI.

    Raises:
        InputError: there is no finished model, or one of another version.
    """
    storage, about = read_about(Storage.of(folder))
    return ReportWriter(open_writer(storage, device), about)


def open_writer(storage: Storage, device: str) -> Writer:
    """The model of an exported folder, ready to write."""
    _, about = read_about(storage)
    with storage.on_disk() as path:
        model, processing = load_export(path, about)
    return Writer(model.to(device).eval(), processing, device)


def read_about(folder: Storage) -> tuple[Storage, dict[str, Any]]:
    """The folder of the model and what raymedlt.json says; arguments and errors as `load`."""
    storage = folder
    if not storage.exists(ABOUT):
        storage = storage.sub(MODEL)
    if not storage.exists(ABOUT):
        raise InputError(
            f"no {ABOUT} in '{folder.uri}'",
            "the output folder of a finished run of jobs/finetune.py, or an export of it",
            "let the run finish: give its command again",
        )
    about: dict[str, Any] = json.loads(storage.read_bytes(ABOUT))
    if about.get("format") != FORMAT:
        raise InputError(
            f"{ABOUT} of format {about.get('format')}", f"format {FORMAT}", "use the version of raymedlt that made it"
        )
    return storage, about
