"""How different two images look to a frozen network: what keeps texture and fine lines in the autoencoder's loss.

    d(x, y) = mean over maps l and places of || u_l(x) - u_l(y) ||^2

with u_l the vector of a map at a place, at unit length.

The maps are those of EfficientNet-Lite0 (ImageNet weights) after its stem and its first three stages. Absolute error
alone gives the median of what an image may be, which is blurred: a classifier takes the blurred spine for another one.

Source: Zhang et al. 2018 (arXiv 1801.03924), equation 1 without the weights that are learnt there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from raymedlt.images.lite0 import lite0_input, lite0_network

LEAST_SIZE = 96
"""Smaller images are enlarged to so many pixels, so that the stem's stride leaves their lines."""
_STAGES = 3


class Perceptual:
    """The distance. No nn.Module, so that nobody trains, saves or sends its network around."""

    def __init__(self, device: str) -> None:
        self.network = lite0_network(device)

    def __call__(self, images_B1SS: Tensor, real_B1SS: Tensor) -> Tensor:
        """Mean distance of the pairs, a scalar; images in [-1, 1]. Gradients reach the first ones alone."""
        with torch.no_grad():
            wanted = self._maps(real_B1SS)
        parts = [
            (one - other).square().sum(1).mean() for one, other in zip(self._maps(images_B1SS), wanted, strict=True)
        ]
        return torch.stack(parts).mean()

    def _maps(self, images_B1SS: Tensor) -> list[Tensor]:
        """The maps with vectors of unit length, float32 [B, C, H, W] each."""
        size = max(LEAST_SIZE, images_B1SS.shape[-1])
        grey = images_B1SS.float() / 2 + 0.5
        network = self.network
        maps = [network.bn1(network.conv_stem(lite0_input(network, grey, size)))]
        for stage in network.blocks[:_STAGES]:
            maps.append(stage(maps[-1]))
        return [normalize(each.float(), dim=1, eps=1e-6) for each in maps]
