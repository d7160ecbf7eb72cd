"""The vision encoder: a timm network that turns a grey square into one or two maps of features.

Batch norms use the statistics that came with the weights, or that the encoder settled while it learnt to see
(seeing.py): while the language model learns, an image's features depend on no other image. A convolutional network
gives its deepest map, and where that has fewer than 4 places a side the next finer ones too: on 64 pixels 4 x 4 and
2 x 2 places, coarse enough for a language model to read. Transformers give their last patch tokens as one map.

An encoder without given weights also tells the language model what it sees: one more map, of one place, whose channels
are the probabilities of findings. (That a classifier's findings prompt the language model is PromptMRG's idea, Jin et
al., AAAI 2024.)

Shapes: B images, S pixels a side, C channels of a map, H x W its places, F findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import timm
import torch
from torch import Tensor, nn

from raymedlt.errors import ConfigError, InputError
from raymedlt.evaluation.findings import every_group
from raymedlt.finetuning.config import LITE0
from raymedlt.images.attention import attended_logits
from raymedlt.images.lite0 import LITE0_BACKBONE, packaged_lite0
from raymedlt.images.networks import GREY_MEAN, GREY_STD, read_weights, refuse_unknown_network

_LEAST = 4  # places along a side of a map that alone is fine enough


class Level(NamedTuple):
    """One map that the encoder gives."""

    channels: int
    side: int
    """Places along a side."""
    seen: bool = False
    """Probabilities of findings, not features."""


class VisionEncoder(nn.Module):
    """A timm network without its head, for images of one size.

    Args:
        name: timm's name of the network.
        image_size: S.
        inputs: channels of its first layer: 1, or 3 where pretrained weights want it.
        findings: names of findings that it learns to see, and tells; none: it gives features alone.

    Shapes:
        pixels_BSS (uint8 in 0..255, or float in [0, 1]) -> one map_BCHW per level, float

    Raises:
        ConfigError: timm has no such network, or it gives no maps of its features.
        InputError: images of another size.
    """

    network: Any
    """timm's network."""
    mean_c11: Tensor
    std_c11: Tensor

    def __init__(self, name: str, image_size: int, *, inputs: int = 1, findings: Sequence[str] = ()) -> None:
        super().__init__()
        self.name, self.image_size, self.inputs = name, image_size, inputs
        self.findings = tuple(findings)
        self.frozen = False
        self.settling = False
        """Whether batch norms use each batch's own statistics while learning, and remember their moving average."""
        self.network = _create(name, image_size, inputs)
        settings = self.network.pretrained_cfg
        mean = [GREY_MEAN] if inputs == 1 else settings["mean"]
        std = [GREY_STD] if inputs == 1 else settings["std"]
        self.register_buffer("mean_c11", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std_c11", torch.tensor(std, dtype=torch.float32)[:, None, None])
        self.indices, self.levels = self._choose()
        self.network.prune_intermediate_layers(self.indices, prune_norm=not self._tokens, prune_head=True)
        self.head: SeeingHead | None = None
        if self.findings:
            self.head = SeeingHead(self.levels, len(self.findings))
            self.levels = (*self.levels, Level(len(self.findings), 1, seen=True))

    @property
    def _tokens(self) -> bool:
        """Whether all its maps have the same places: a transformer, which wants its last norm."""
        return len({each["reduction"] for each in self.network.feature_info}) == 1

    def forward(self, pixels_BSS: Tensor) -> list[Tensor]:
        """The maps, the finest first, and at last what is seen."""
        maps = self.features(pixels_BSS)
        if self.head is not None:
            maps.append(self.head(maps).sigmoid()[:, :, None, None])
        return maps

    def logits(self, pixels_BSS: Tensor) -> Tensor:
        """Of `findings` [B, F], float32."""
        assert self.head is not None
        logits_BF: Tensor = self.head(self.features(pixels_BSS))
        return logits_BF

    def features(self, pixels_BSS: Tensor) -> list[Tensor]:
        """The maps alone."""
        if pixels_BSS.ndim != 3 or pixels_BSS.shape[1:] != (self.image_size, self.image_size):
            raise InputError(
                f"images of shape {tuple(pixels_BSS.shape)}",
                f"grey squares [B, {self.image_size}, {self.image_size}], the size that the model was built for",
                f"set images.size to {self.image_size}, or train a model for this size",
            )
        pixels_B1SS = pixels_BSS.unsqueeze(1)
        x_B1SS = pixels_B1SS.float() / 255.0 if pixels_B1SS.dtype == torch.uint8 else pixels_B1SS
        x_BcSS = (x_B1SS - self.mean_c11) / self.std_c11  # repeats the channel where the mean has three
        return self._maps(x_BcSS.to(next(self.network.parameters()).dtype), self.indices)

    def train(self, mode: bool = True) -> Self:
        """As in torch, but batch norms keep their statistics unless `settling`, and a frozen encoder drops nothing."""
        super().train(mode)
        if self.frozen:
            super().train(False)
        if not self.settling:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def freeze(self) -> None:
        """It learns nothing any more."""
        self.frozen = True
        self.requires_grad_(False)
        self.train(self.training)

    def _maps(self, x_BcSS: Tensor, indices: Sequence[int]) -> list[Tensor]:
        maps: list[Tensor] = self.network.forward_intermediates(
            x_BcSS, indices=list(indices), norm=self._tokens, stop_early=True, output_fmt="NCHW",
            intermediates_only=True,
        )  # fmt: skip
        return maps

    def _choose(self) -> tuple[tuple[int, ...], tuple[Level, ...]]:
        """Which of the network's maps are read, found by a trial."""
        every = range(len(self.network.feature_info))
        device = next(self.network.parameters()).device
        self.network.eval()  # the trial leaves random generators alone
        with torch.no_grad():
            trial = self._maps(torch.zeros(1, self.inputs, self.image_size, self.image_size, device=device), every)
        self.network.train()
        levels = [Level(each.shape[1], each.shape[2]) for each in trial]
        if self._tokens:
            chosen = [len(levels) - 1]
        else:
            chosen = [at for at, level in enumerate(levels) if level.side < _LEAST]  # the deepest ones
            chosen = [max(min(chosen, default=len(levels)) - 1, 0), *chosen]
        return tuple(chosen), tuple(levels[at] for at in chosen)


class SeeingHead(nn.Module):
    """Findings from the encoder's maps: the sum over the maps of a `MapHead` each.

    Shapes:
        maps_BCHW, one per level -> logits_BF
    """

    def __init__(self, levels: Sequence[Level], findings: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([MapHead(level.channels, findings) for level in levels])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits of the findings, float32."""
        logits_BF: Tensor = torch.stack([head(each) for head, each in zip(self.heads, maps, strict=True)]).sum(0)
        return logits_BF


class MapHead(nn.Module):
    """logit_f = w_f . mean_k(x_k) + w_f . v_f + b_f with v_f = sum_k a_fk x_k and a_f = softmax_k(u_f . x_k).

    x_k is a map's feature at place k after a batch norm: the class-aware attention of TRCGL-Net (arXiv 2607.00975).

    Shapes:
        x_BCHW -> logits_BF, float32
    """

    def __init__(self, channels: int, findings: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.query_FC = nn.Parameter(torch.randn(findings, channels) * channels**-0.5)
        self.weight_FC = nn.Parameter((2 * torch.rand(findings, channels) - 1) * channels**-0.5)
        self.bias_F = nn.Parameter(torch.zeros(findings))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of the findings."""
        with torch.autocast(x_BCHW.device.type, enabled=False):
            x_BCK = self.norm(x_BCHW.float()).flatten(2)
            scores_BFK = torch.einsum("fc,bck->bfk", self.query_FC, x_BCK)
            attended_BF, _ = attended_logits(scores_BFK, x_BCK, self.weight_FC)
            logits_BF: Tensor = x_BCK.mean(2) @ self.weight_FC.T + attended_BF + self.bias_F
        return logits_BF


def build_vision(name: str, image_size: int, weights: str | None = None) -> VisionEncoder:
    """The encoder of model.vision: random (torch's global generator) and with all groups of findings
    (evaluation.findings), or with the weights of model.vision_weights.

    Raises:
        ConfigError: an unknown network, or weights of another one.
        InputError: no such file of weights.
        MissingDependencyError: the package of "efficientnet-lite0" is not installed.
    """
    if name == LITE0 and weights is None:
        tensors: Mapping[str, Tensor] = packaged_lite0()
    elif weights is not None:
        tensors = _own(read_weights(weights, "model.vision_weights"))
    else:
        return VisionEncoder(name, image_size, findings=every_group())
    network = timm_name(name)
    first = _first_layer(network)
    inputs = tensors[first].shape[1] if first in tensors else 0
    if inputs not in (1, 3):
        raise _misfit(name, f"they lack the first layer '{first}' with 1 or 3 input channels")
    encoder = VisionEncoder(network, image_size, inputs=inputs)
    wanted = encoder.network.state_dict()
    # What the encoder left out (a head, the stages behind the maps that are read) isn't missed.
    wrong = sorted(key for key in wanted if key not in tensors or wanted[key].shape != tensors[key].shape)
    if wrong:
        raise _misfit(name, f"{len(wrong)} tensors are missing or of another shape, such as '{wrong[0]}'")
    encoder.network.load_state_dict({key: tensors[key] for key in wanted})
    return encoder


def timm_name(name: str) -> str:
    """timm's name of the network that model.vision names."""
    return LITE0_BACKBONE if name == LITE0 else name


def _create(name: str, image_size: int, inputs: int) -> Any:
    refuse_unknown_network(name, "model.vision", LITE0)
    fixed = timm.models.get_pretrained_cfg(name).fixed_input_size
    size = {"img_size": image_size} if fixed else {}
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0, in_chans=inputs, **size)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(
            f"model.vision is {name!r}, which timm cannot build for images of {image_size} pixels "
            f"({type(error).__name__})",
            "a network for images of this size",
            "change model.vision or images.size",
        ) from None
    if not (hasattr(network, "forward_intermediates") and hasattr(network, "prune_intermediate_layers")):
        raise ConfigError(
            f"model.vision is {name!r}, which gives no maps of its features",
            "a timm network with forward_intermediates, such as a ResNet, ConvNeXt, EfficientNet or ViT",
            "change model.vision",
        )
    return network


def _first_layer(name: str) -> str:
    first = timm.models.get_pretrained_cfg(name).first_conv if timm.is_model(name) else ""
    return f"{first if isinstance(first, str) else first[0]}.weight"


def _own(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors by timm's names: a classifier or another encoder of this project loses its prefixes."""
    for prefix in ("backbone.network.", "vision.network.", "network."):
        if any(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    return tensors


def _misfit(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"the weights of model.vision_weights do not fit model.vision {name!r}: {what}",
        "weights of the same timm network, for images of the same size where it is a transformer",
        "set model.vision to the network that the weights were trained with",
    )
