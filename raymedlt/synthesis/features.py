"""Feature vectors of images, for what compares distributions: distance to the real images, KID, precision and recall.

Two encoders: frozen EfficientNet-Lite0 (ImageNet weights, packaged), which knows nothing of this data set, and the
backbone of a finished classifier.

N images, S pixels a side, D features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raymedlt.classifier import Classifier
from raymedlt.images.lite0 import lite0_input, lite0_network

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

LITE0_SIZE = 128
"""Pixels a side that EfficientNet-Lite0 sees: at 64 its last map would have 2 x 2 positions."""
BATCH = 32
"""Images per step. Fixed, and filled up with black ones, since floats depend on the shape."""


def lite0_features(images_NSS: Bytes, device: str = "cpu") -> Floats:
    """Mean feature map of frozen EfficientNet-Lite0 at 128 pixels, float32 [N, 1280].

    About 8 ms an image on one core.

    Raises:
        MissingDependencyError: the package of the weights isn't installed.
    """
    network = lite0_network(device)

    def pooled(images_B1SS: Tensor) -> Tensor:
        maps: Tensor = network.forward_features(lite0_input(network, images_B1SS, LITE0_SIZE))
        return maps.mean(dim=(2, 3))

    return _in_batches(pooled, images_NSS, device)


def classifier_features(classifier: Classifier, images_NSS: Bytes) -> Floats:
    """Mean of the normalised feature map of a classifier's first network, float32 [N, D].

    Args:
        images_NSS: prepared images (`classifier.prepare`).
    """
    member = classifier.members[0]

    def pooled(images_B1SS: Tensor) -> Tensor:
        return member.norm(member.backbone(images_B1SS)).mean(dim=(2, 3))  # type: ignore[no-any-return]

    return _in_batches(pooled, images_NSS, classifier.device)


def _in_batches(pooled: Callable[[Tensor], Tensor], images_NSS: Bytes, device: str) -> Floats:
    if not len(images_NSS):
        raise ValueError("features of no images")
    found = []
    with torch.inference_mode():
        for start in range(0, len(images_NSS), BATCH):
            part = images_NSS[start : start + BATCH]
            filled = np.zeros((BATCH, *part.shape[1:]), np.uint8)
            filled[: len(part)] = part
            images = torch.from_numpy(filled).unsqueeze(1).to(device).float() / 255
            found.append(pooled(images).float().cpu().numpy()[: len(part)])
    return np.concatenate(found)
