"""The backbone: a timm network up to its last feature map, fed with grey images, and where its weights come from.

A network with a random start takes one channel. A pretrained one keeps the number of channels of its first layer: the
grey image is repeated and each copy normalised as in pretraining, so the first layer sees the statistics it was trained
with. (Summing its weights over the channels would do so only if the channels shared mean and deviation.)

Shapes: B images, S pixels along a side, D channels, H x W positions of the feature map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from raymedlt.classifier.config import ModelConfig
from raymedlt.errors import ConfigError
from raymedlt.images.lite0 import LITE0_BACKBONE, packaged_lite0
from raymedlt.images.networks import GREY_MEAN, GREY_STD, read_weights, refuse_unknown_network

LITE0 = "efficientnet-lite0"
"""Value of model.weights that stands for the packaged ImageNet weights."""

Weights = Mapping[str, Tensor]


class Backbone(nn.Module):
    """A timm network without its head.

    Args:
        name: timm's name of the network.
        drop_path: stochastic depth.
        inputs: channels of the first layer, 1 or 3.

    Shapes:
        images_B1SS (uint8 in 0..255, or float in [0, 1]) -> x_BDHW, float

    Raises:
        ConfigError: timm has no such network, or it has no stochastic depth or no feature map.
    """

    network: Any
    """timm's network: an nn.Module with `forward_features`, `num_features` and `pretrained_cfg`."""
    dropped: tuple[str, ...]
    """Parts of timm's network that belong to its head."""
    mean_c11: Tensor
    std_c11: Tensor

    def __init__(self, name: str, drop_path: float = 0.0, inputs: int = 1) -> None:
        super().__init__()
        refuse_unknown_network(name, "model.backbone")
        self.name, self.inputs = name, inputs
        self.network = _create(name, drop_path, inputs)
        self.channels = int(self.network.num_features)
        self.dropped = _drop_head(self.network, inputs)
        grey = inputs == 1
        settings = self.network.pretrained_cfg
        mean = [GREY_MEAN] if grey else settings["mean"]
        std = [GREY_STD] if grey else settings["std"]
        self.register_buffer("mean_c11", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std_c11", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, images_B1SS: Tensor) -> Tensor:
        """The last feature map."""
        x_B1SS = images_B1SS.float() / 255.0 if images_B1SS.dtype == torch.uint8 else images_B1SS
        x_BcSS = (x_B1SS - self.mean_c11) / self.std_c11  # repeats the channel where the mean has three
        return self._maps(self.network.forward_features(x_BcSS))

    def _maps(self, features: Tensor) -> Tensor:
        """x_BDHW from what timm's families give: BDHW, BHWD, or tokens B(n+HW)D with n class or register tokens."""
        if features.ndim == 4 and features.shape[1] == self.channels:
            return features
        if features.ndim == 4 and features.shape[3] == self.channels:
            return features.permute(0, 3, 1, 2).contiguous()
        if features.ndim == 3 and features.shape[2] == self.channels:
            side = math.isqrt(features.shape[1])  # images are square, and extra tokens few and first
            tokens_BDK = features[:, -side * side :].transpose(1, 2)
            return tokens_BDK.reshape(*tokens_BDK.shape[:2], side, side)
        raise ConfigError(
            f"model.backbone is {self.name!r}, whose features have shape {tuple(features.shape)}",
            f"a feature map with {self.channels} channels",
            "choose a timm network that ends in a feature map, such as a ResNet, ConvNeXt, EfficientNet or ViT",
        )


def build_backbone(config: ModelConfig) -> Backbone:
    """The backbone of the section `model`: random, or with the weights that model.weights names.

    Random weights come from torch's global generator.

    Raises:
        ConfigError: an unknown network, or weights of another one.
        InputError: no such file of weights.
        MissingDependencyError: the package of "efficientnet-lite0" is not installed.
    """
    if config.weights is None:
        return Backbone(config.backbone, config.drop_path)
    if config.weights == LITE0 and config.backbone != LITE0_BACKBONE:
        raise ConfigError(
            f"model.weights is {LITE0!r} and model.backbone {config.backbone!r}",
            f"the network that these weights belong to, {LITE0_BACKBONE!r}",
            f"add --model.backbone {LITE0_BACKBONE}",
        )
    tensors = _own(packaged_lite0() if config.weights == LITE0 else read_weights(config.weights, "model.weights"))
    mean = tensors.get("mean_c11")
    network = {name.removeprefix("network."): tensor for name, tensor in tensors.items() if name.startswith("network.")}
    probe = Backbone(config.backbone, config.drop_path)
    first = probe.network.pretrained_cfg["first_conv"]
    first = f"{first if isinstance(first, str) else first[0]}.weight"
    inputs = network[first].shape[1] if first in network else 0
    if inputs not in (1, 3):
        raise _misfit(config, f"they lack the first layer '{first}' with 1 or 3 input channels")
    backbone = probe if inputs == 1 else Backbone(config.backbone, config.drop_path, inputs)
    wanted = backbone.network.state_dict()
    given = {name: tensor for name, tensor in network.items() if name.split(".")[0] not in backbone.dropped}
    wrong = sorted(
        (wanted.keys() ^ given.keys())
        | {name for name in wanted.keys() & given.keys() if wanted[name].shape != given[name].shape}
    )
    if wrong:
        raise _misfit(config, f"{len(wrong)} tensors are missing, unknown or of another shape, such as '{wrong[0]}'")
    backbone.network.load_state_dict(given)
    if mean is not None:
        backbone.mean_c11.copy_(mean)
        backbone.std_c11.copy_(tensors["std_c11"])
    return backbone


def _misfit(config: ModelConfig, what: str) -> ConfigError:
    return ConfigError(
        f"the weights of model.weights do not fit model.backbone {config.backbone!r}: {what}",
        "weights of the same timm network",
        "set model.backbone to the network that the weights were trained with",
    )


def _create(name: str, drop_path: float, inputs: int) -> Any:
    settings: dict[str, object] = {"pretrained": False, "num_classes": 0, "in_chans": inputs}
    if drop_path:
        settings["drop_path_rate"] = drop_path
    # Transformers with positions for one image size have a switch for any size; its name depends on the family.
    fixed = timm.models.get_pretrained_cfg(name).fixed_input_size
    switches: list[dict[str, object]] = [{"dynamic_img_size": True}, {"strict_img_size": False}] if fixed else []
    for switch in (*switches, {}):
        try:
            network = timm.create_model(name, **settings, **switch)
        except TypeError as error:
            unknown = str(error)
            continue
        return network
    raise ConfigError(
        f"model.backbone is {name!r}, which timm cannot build with these settings ({unknown})",
        "a network with stochastic depth, or model.drop_path 0",
        "change model.backbone or set model.drop_path to 0",
    )


def _drop_head(network: Any, inputs: int) -> tuple[str, ...]:
    """Replace the parts that the features do not depend on, and say which they are.

    timm keeps norms and layers of the head even without classes; weights that get no gradient stop data-parallel
    training, and would be stored for nothing.
    """
    settings = network.pretrained_cfg
    size = settings["input_size"][-1] if settings["fixed_input_size"] else 64
    parameters = dict(network.named_parameters())
    network.eval()  # the trial leaves batch statistics and random generators alone
    total = network.forward_features(torch.zeros(1, inputs, size, size)).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    network.train()
    used = {name.split(".")[0] for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    unused = {name.split(".")[0] for name in parameters} - used
    for name in unused:
        setattr(network, name, nn.Identity())
    classifier = settings["classifier"] or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return tuple(sorted(unused | {name.split(".")[0] for name in names} - used))


def _own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors named as in `Backbone`: those of a whole classifier lose the rest, timm's names get the prefix."""
    prefix = "backbone."
    if any(name.startswith(f"{prefix}network.") for name in tensors):
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return {f"network.{name}": tensor for name, tensor in tensors.items()}
