"""Use of a finished classifier: `load(folder).predict(images)`.

    model/classifier.json        classes, thresholds, calibration, image size, members
    model/<member>.safetensors   the networks

B images, C classes, S pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raymedlt.classifier.calibration import Calibration
from raymedlt.classifier.evaluation import mean_logits
from raymedlt.classifier.model import LabelGraphClassifier, from_safetensors
from raymedlt.classifier.scoring import logits_of
from raymedlt.errors import InputError
from raymedlt.images.examples import PixelShards
from raymedlt.images.given import Image, all_squares_of, squares_of
from raymedlt.storage import Storage

ABOUT = "classifier.json"
FORMAT = 1


@dataclass(frozen=True)
class Predictions:
    """What `predict` gives; also iterates as (probabilities, classes)."""

    probabilities: npt.NDArray[np.float32]
    """[B, C], calibrated."""
    classes: tuple[str, ...]

    def __iter__(self) -> Any:
        return iter((self.probabilities, self.classes))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A finished classifier. Make it with `load`."""

    classes: tuple[str, ...]
    thresholds: npt.NDArray[np.float64]
    """[C], of calibrated probabilities: the largest F1 on validation."""
    calibration: Calibration
    members: list[LabelGraphClassifier]
    about: dict[str, Any]
    device: str

    def prepare(self, images: Sequence[Image] | npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Images as the network wants them, uint8 [B, S, S].

        Args:
            images: each the path or URI of a PNG, JPEG or DICOM file, its bytes, a Pillow image, or an array [H, W]:
                uint8, or float in [0, 1], black is air.

        Raises:
            InputError: images that can't be read; the message gives their positions and reasons.
        """
        return all_squares_of(images, **self._how)

    @property
    def _how(self) -> dict[str, Any]:
        own = self.about["images"]
        return {"size": own["size"], "fit": own["fit"], "max_pixels": own["max_pixels"]}

    def predict(self, images: Sequence[Image] | npt.NDArray[Any]) -> Predictions:
        """Calibrated probabilities of the classes, float32 [B, C]. Arguments and errors as `prepare`.

        An image's digits don't depend on the others: batches have one fixed shape.
        """
        return Predictions(self.probabilities(self.prepare(images)), self.classes)

    def predict_each(self, images: Iterable[Image | None]) -> tuple[npt.NDArray[np.float32], list[str]]:
        """As `predict`, but an image that can't be read doesn't stop the others.

        Returns:
            Calibrated probabilities, float32 [B, C], NaN for such an image; and for each image "" or the reason.
        """
        squares, reasons = squares_of(images, **self._how)
        found = np.full((len(reasons), len(self.classes)), np.nan, np.float32)
        if squares:
            found[[not reason for reason in reasons]] = self.probabilities(np.stack(squares))
        return found, reasons

    def probabilities(self, images_BSS: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The same for prepared images."""
        pixels, rows = PixelShards.of([images_BSS]), np.arange(len(images_BSS))
        how = self.about["scoring"]
        logits = [
            logits_of(member, pixels, rows, how["batch_images"], self.device, how["precision"], tta=how["tta"])
            for member in self.members
        ]
        return np.asarray(self.calibration.apply(mean_logits(logits)), np.float32)

    def maps(self, images_BSS: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32] | None:
        """Attention maps of the first member for prepared images, float32 [B, C, H, W]; None without attention."""
        with torch.inference_mode():
            images = torch.from_numpy(images_BSS).unsqueeze(1).to(self.device)
            maps = self.members[0](images, with_maps=True).maps_BCHW
        return None if maps is None else maps.cpu().numpy()


def load(folder: str, device: str = "cpu") -> Classifier:
    """A classifier from the output folder of jobs/classify.py, or its folder `model`; a path or URI.

    Raises:
        InputError: there is no finished classifier, or one of another version.
    """
    storage, about = read_about(folder)
    members = [from_safetensors(storage.read_bytes(name)).to(device) for name in about["members"]]
    return Classifier(
        classes=tuple(about["classes"]),
        thresholds=np.array(about["thresholds"]),
        calibration=Calibration.from_json(json.dumps(about["calibration"])),
        members=members,
        about=about,
        device=device,
    )


def read_about(folder: str) -> tuple[Storage, dict[str, Any]]:
    """The folder `model` and what classifier.json says; arguments and errors as `load`."""
    storage = Storage.of(folder)
    if not storage.exists(ABOUT):
        storage = storage.sub("model")
    if not storage.exists(ABOUT):
        raise InputError(
            f"no {ABOUT} in '{Storage.of(folder).uri}'",
            "the output folder of a finished run of jobs/classify.py",
            "let the run finish: give its command again",
        )
    about: dict[str, Any] = json.loads(storage.read_bytes(ABOUT))
    if about.get("format") != FORMAT:
        raise InputError(
            f"{ABOUT} of format {about.get('format')}", f"format {FORMAT}", "use the version of raymedlt that made it"
        )
    return storage, about
