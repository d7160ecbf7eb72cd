"""Random changes of training images, each decided by the image's own key, and small shifts for test-time averaging.

An image's result depends on its pixels, its key and the configuration: bit for bit the same alone, in any batch and in
any order. So every sum over pixels is kept inside one image, and the warp's coordinates are built from elementwise
operations (a batched matrix product may add in another order when the batch grows). Each amount has its own place in an
image's draws: switching one change off leaves the others as they were.

Shape suffixes: B batch, S height and width, K draws of one image, N images that get CLAHE, T tiles along one side,
L grey levels, P corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from raymedlt.errors import InputError

if TYPE_CHECKING:  # the name of a type only: imports run downhill
    from raymedlt.images.config import AugmentConfig

LEVELS = 256
RECTANGLES = 3  # coarse dropout: at most so many
SMALLEST, LARGEST = 0.06, 0.2  # sides of a rectangle, shares of the image's side
CLIP_LIMITS = (1.5, 3.0)  # CLAHE: times the count that each grey level would have in an even histogram
VIEWS = ((0.0, 0.0, 1.0), (0.03, 0.03, 1.0), (-0.03, -0.03, 1.0), (0.0, 0.0, 0.95), (0.0, 0.0, 1.05))

# Where each change finds its number among an image's draws.
_ROTATE, _SHIFT_X, _SHIFT_Y, _SCALE, _BRIGHTNESS, _CONTRAST, _FLIP, _NOISE = range(8)
_CLAHE, _CLIP_LIMIT, _DROPOUT, _RECTANGLES, _FIRST_RECTANGLE = range(8, 13)
_DRAWS = _FIRST_RECTANGLE + 4 * RECTANGLES

Floats = npt.NDArray[np.float64]


def augment(images_BSS: Tensor, keys: Sequence[int], config: AugmentConfig) -> Tensor:
    """Changed images, float32 [B, 1, S, S] in [0, 1]; the images given stay as they are.

    In this order: CLAHE on a share of the images, flip, one affine warp (rotation, shift, scale; black comes in from
    outside), brightness and contrast, Gaussian noise, coarse dropout (DeVries and Taylor, arXiv 1708.04552: rectangles
    set to 0). With every amount 0 the result is exactly `images_BSS / 255`.

    Args:
        images_BSS: uint8, or float32 in [0, 1]; on the CPU.
        keys: one seed per image, as `seeds.keyed_seed(seed, "augment", epoch, draw, image_id)` gives it.

    Raises:
        InputError: not [B, S, S], another dtype, or not one key per image.

    O(B S^2).
    """
    x_B1SS = _unit(images_BSS)
    if len(keys) != len(x_B1SS):
        raise InputError(f"{len(keys)} keys for {len(x_B1SS)} images", "one key per image", "give each image its own")
    if not len(keys):
        return x_B1SS
    generators = [np.random.Generator(np.random.PCG64(key)) for key in keys]
    draws_BK = np.stack([generator.random(_DRAWS) for generator in generators])
    signed_BK = 2 * draws_BK - 1
    chosen = np.flatnonzero(draws_BK[:, _CLAHE] < config.clahe)
    if len(chosen):
        low, high = CLIP_LIMITS
        limits_N = low + (high - low) * draws_BK[chosen, _CLIP_LIMIT]
        x_B1SS[chosen, 0] = torch.from_numpy(clahe(x_B1SS[chosen, 0].numpy(), limits_N))
    if config.flip:
        flipped = np.flatnonzero(draws_BK[:, _FLIP] < 0.5)
        x_B1SS[flipped] = x_B1SS[flipped].flip(-1)
    if config.rotate or config.shift or config.scale:
        x_B1SS = _warp(
            x_B1SS,
            np.deg2rad(config.rotate) * signed_BK[:, _ROTATE],
            config.shift * signed_BK[:, [_SHIFT_X, _SHIFT_Y]],
            1 + config.scale * signed_BK[:, _SCALE],
        )
    if config.contrast:
        brightness_B = 1 + config.contrast * signed_BK[:, _BRIGHTNESS]
        contrast_B = 1 + config.contrast * signed_BK[:, _CONTRAST]
        x_B1SS.mul_(_per_image(brightness_B * contrast_B)).add_(_per_image(0.5 * (1 - contrast_B)))  # about mid grey
    if config.noise:
        noise_BSS = np.empty((len(keys), *x_B1SS.shape[2:]), np.float32)
        for generator, noise_SS in zip(generators, noise_BSS, strict=True):
            generator.standard_normal(out=noise_SS, dtype=np.float32)
        x_B1SS.add_(torch.from_numpy(noise_BSS).unsqueeze(1).mul_(_per_image(config.noise * draws_BK[:, _NOISE])))
    for image in np.flatnonzero(draws_BK[:, _DROPOUT] < config.dropout):
        _drop_rectangles(x_B1SS[image, 0], draws_BK[image])
    return x_B1SS.clamp_(0, 1)


def tta_views(images_B1SS: Tensor) -> list[Tensor]:
    """The images themselves, two small shifts and two small changes of scale: what test-time averaging scores.

    No flips: they swap left and right. Each view is float32 [B, 1, S, S] in [0, 1], a function of each image alone.

    Args:
        images_B1SS: uint8, or float32 in [0, 1]; on the CPU.

    Raises:
        InputError: not [B, 1, S, S], or another dtype.
    """
    x_B1SS = _unit(images_B1SS.squeeze(1))
    count = len(x_B1SS)
    views = [x_B1SS]
    for across, down, scale in VIEWS[1:]:
        shift_B2 = np.tile(np.array([across, down]), (count, 1))
        views.append(_warp(x_B1SS, np.zeros(count), shift_B2, np.full(count, scale)))
    return views


def clahe(images_NSS: npt.NDArray[np.float32], limits_N: Floats) -> npt.NDArray[np.float32]:
    """Contrast-limited adaptive histogram equalisation (Zuiderveld, Graphics Gems IV, 1994, pages 474-485).

    The image is cut into tiles (4 x 4, from 128 pixels on 8 x 8). Each tile's histogram of 256 grey levels is clipped
    and what was cut off is spread over all levels; its running sum is the tile's grey-level map. A pixel takes the
    bilinear mixture of the four nearest tiles' maps.

    Args:
        images_NSS: float32 in [0, 1].
        limits_N: clip limits, as multiples of an even histogram's count; 1 changes contrast least.

    Returns:
        float32 [N, S, S] in [0, 1]. O(N (S^2 + T^2 L)).
    """
    count, size = images_NSS.shape[:2]
    tiles = 4 if size < 128 else 8
    levels_NSS = (images_NSS * (LEVELS - 1) + 0.5).astype(np.int64)
    tile_S = np.arange(size) * tiles // size
    tile_SS = tile_S[:, None] * tiles + tile_S
    place_NSS = (np.arange(count)[:, None, None] * tiles**2 + tile_SS) * LEVELS + levels_NSS
    counts_NTL = np.bincount(place_NSS.ravel(), minlength=count * tiles**2 * LEVELS).reshape(count, tiles**2, LEVELS)
    pixels_T = np.bincount(tile_SS.ravel(), minlength=tiles**2)
    share_NTL = (counts_NTL / pixels_T[:, None]).astype(np.float32)
    clipped_NTL = np.minimum(share_NTL, (limits_N / LEVELS).astype(np.float32)[:, None, None])
    maps_NTL = np.cumsum(clipped_NTL, axis=-1)
    excess_NT1 = 1 - maps_NTL[..., -1:]  # shares add up to 1
    maps_NTL += excess_NT1 * (np.arange(1, LEVELS + 1, dtype=np.float32) / LEVELS)

    centres_T = np.array([np.flatnonzero(tile_S == tile).mean() for tile in range(tiles)])
    between_S = np.interp(np.arange(size), centres_T, np.arange(tiles))  # before the first centre: the first tile's map
    before_S = np.minimum(between_S.astype(np.int64), tiles - 2)
    weight_S = (between_S - before_S).astype(np.float32)
    flat = maps_NTL.ravel()
    base_NSS = np.arange(count)[:, None, None] * (tiles**2 * LEVELS) + levels_NSS
    out_NSS = np.zeros(images_NSS.shape, np.float32)
    for down in (0, 1):
        for across in (0, 1):
            corner_SS = ((before_S[:, None] + down) * tiles + before_S + across) * LEVELS
            weight_SS = np.where(down, weight_S, 1 - weight_S)[:, None] * np.where(across, weight_S, 1 - weight_S)
            out_NSS += weight_SS * flat[base_NSS + corner_SS]
    return np.clip(out_NSS, 0, 1)


def _unit(images_BSS: Tensor) -> Tensor:
    """A new float32 [B, 1, S, S] in [0, 1]."""
    if images_BSS.ndim != 3 or images_BSS.shape[1] != images_BSS.shape[2]:
        raise InputError(
            f"images of shape {tuple(images_BSS.shape)}", "[B, S, S]", "prepare square images (images.size, images.fit)"
        )
    if images_BSS.dtype == torch.uint8:
        return images_BSS.to(torch.float32).div_(255).unsqueeze(1)
    if images_BSS.dtype == torch.float32:
        return images_BSS.clone().unsqueeze(1)
    raise InputError(f"images of dtype {images_BSS.dtype}", "uint8, or float32 in [0, 1]", "convert them before")


def _per_image(values_B: Floats) -> Tensor:
    return torch.from_numpy(values_B.astype(np.float32)).view(-1, 1, 1, 1)


def _warp(x_B1SS: Tensor, angle_B: Floats, shift_B2: Floats, scale_B: Floats) -> Tensor:
    """Each image turned about its centre, made `scale` times as large, then moved right and down by `shift`.

    Bilinear; black outside. shift: shares of the side. angle: radians.
    """
    size = x_B1SS.shape[-1]
    places_S = (2 * torch.arange(size, dtype=torch.float32) + 1) / size - 1  # pixel centres in [-1, 1]
    shift_B2 = 2 * shift_B2
    cos_B, sin_B = np.cos(angle_B) / scale_B, np.sin(angle_B) / scale_B
    # Where in the source an output pixel looks: the inverse of the change.
    source_B2SS = torch.empty(len(x_B1SS), 2, size, size)
    for axis, (of_x, of_y) in enumerate(((cos_B, sin_B), (-sin_B, cos_B))):
        start_B = -of_x * shift_B2[:, 0] - of_y * shift_B2[:, 1]
        row_B1S = _per_image(of_x)[:, 0] * places_S + _per_image(start_B)[:, 0]
        column_BS1 = _per_image(of_y)[:, 0] * places_S[:, None]
        torch.add(row_B1S, column_BS1, out=source_B2SS[:, axis])
    return grid_sample(x_B1SS, source_B2SS.permute(0, 2, 3, 1), "bilinear", "zeros", align_corners=False)


def _drop_rectangles(x_SS: Tensor, draws_K: Floats) -> None:
    """Set one to three rectangles to 0, in place."""
    size = len(x_SS)
    for number in range(1 + int(RECTANGLES * draws_K[_RECTANGLES])):
        first = _FIRST_RECTANGLE + 4 * number
        height, width = (
            max(1, round(size * (SMALLEST + (LARGEST - SMALLEST) * d))) for d in draws_K[first : first + 2]
        )
        top, left = int(draws_K[first + 2] * (size - height + 1)), int(draws_K[first + 3] * (size - width + 1))
        x_SS[top : top + height, left : left + width] = 0
