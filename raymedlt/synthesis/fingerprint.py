"""A short vector of an image that tells whose picture it is and forgets how it was exposed, stored and noised.

The image is reduced to 64 pixels and band-passed, its middle is taken at 26 x 26 places, and a linear map learnt from
planted copies keeps the directions in which different images differ most, compared with copies of one image (linear
discriminant analysis with one class per training image). Larger shifts and rotations are not forgotten but searched:
the image in question is looked up in 224 views (7 rotations x 16 shifts, each also mirrored), the training image in one
alone. So a training image costs D floats, and no training image is stored.

Measured beside it on the same planted copies: fixed descriptors without a learnt map miss most of them; registration of
band-passed pixels (correlation over shifts and rotations) finds nearly as many, but needs the training images
themselves and more time.

Sources: copy detection by a learnt descriptor and a threshold on its nearest neighbour: Pizzi et al., SSCD, CVPR 2022;
for medical diffusion models: Dar et al. (arXiv 2402.01054); discriminant analysis: Fisher 1936.

N images, S pixels a side, V views, P = 676 places, D length of a fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse
from scipy.ndimage import gaussian_filter, zoom
from threadpoolctl import threadpool_limits

from raymedlt.errors import InputError
from raymedlt.seeds import generator
from raymedlt.synthesis.planted import degraded, moved

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIZE = 64
"""Pixels a side at which images are compared."""
FINE, COARSE = 1.2, 10.0
"""Standard deviations of the band-pass (a difference of Gaussians), pixels: what is finer is noise, what is coarser is
exposure."""
PLACES, STEP = 26, 2.0
"""Places a side, and the distance between them in pixels: the outer 6 pixels are left to shifts."""
EVEN = 1e-3
"""Standard deviation of the band-passed image (grey levels are 0 to 1) below which it has no structure to compare."""
ROTATIONS = tuple(np.linspace(-5, 5, 7).tolist())
"""Degrees."""
SHIFTS = (-2.4, -0.8, 0.8, 2.4)
"""Pixels, down and across."""
LEFT_OVER = (0.9, 1.0)
"""What no view undoes, and the map must forget: pixels and degrees either way."""
RIDGE = 0.05
"""Added to the covariance of copies, as a share of its mean variance."""
MOST_SHARED, MOST_PLANTED = 6000, 2000
"""Training images that the two covariances are estimated from, at most."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The learnt map. Make it with `learn`."""

    mean_P: Floats
    map_PD: Floats

    def vectors(self, images_NSS: Bytes) -> Floats:
        """Fingerprints of images as they are, float32 [N, D] of unit length (0 for an image without structure)."""
        straight = _sampling((0.0,), (0.0,), False)
        return np.stack([self._mapped(straight, image)[0] for image in images_NSS])

    def views(self, image_SS: Bytes) -> Floats:
        """Fingerprints of the 224 views of one image, float32 [V, D]; the first half as it is, then mirrored.

        About 20 million multiplications. One image at a time, so that nothing depends on its neighbours.
        """
        return self._mapped(_sampling(ROTATIONS, SHIFTS, True), image_SS)

    def _mapped(self, sampling: scipy.sparse.csr_array, image_SS: Bytes) -> Floats:
        places_VP = np.asarray(sampling @ band_pass(image_SS).ravel()).reshape(-1, PLACES**2)
        if places_VP.std() < EVEN:
            return np.zeros((len(places_VP), self.map_PD.shape[1]), np.float32)
        return _unit((places_VP - self.mean_P) @ self.map_PD)


def learn(images_NSS: Bytes, *, length: int, seed: int) -> Fingerprint:
    """The map that separates training images best from each other, compared with copies of themselves.

    With S_t the covariance of the images and S_w that of the difference between an image and its planted copy (a small
    move, another exposure, noise, JPEG), its columns are the first generalised eigenvectors of
    S_t v = w (S_w + ridge) v.

    Args:
        images_NSS: training images, uint8.
        length: D; less where there are not so many images.
        seed: of the planted copies and of which images are used.

    Raises:
        InputError: fewer than two images.

    At most 6,000 images are read, 2,000 of them twice: some seconds, whatever N.
    """
    if len(images_NSS) < 2:
        raise InputError(f"{len(images_NSS)} training images", "at least 2", "give the gate the training images")
    order = generator(seed, "fingerprint", "images").permutation(len(images_NSS))
    straight = _sampling((0.0,), (0.0,), False)

    def places(images: npt.NDArray[Any] | list[Bytes]) -> Floats:
        return np.stack([straight @ band_pass(image).ravel() for image in images])

    shared_NP = places(images_NSS[np.sort(order[:MOST_SHARED])])
    mean_P = shared_NP.mean(axis=0)
    chosen = np.sort(order[:MOST_PLANTED])
    copies = [_left_over(reduced(images_NSS[row]), seed, int(row)) for row in chosen]
    length, places_count = min(length, len(images_NSS) - 1), len(mean_P)
    wanted = [places_count - length, places_count - 1]
    with threadpool_limits(1, user_api="blas"):  # the last digits depend on how threads cut the sums
        within_PP = _scatter(places(copies) - places(images_NSS[chosen]))
        between_PP = _scatter(shared_NP - mean_P)
        ridge = RIDGE * np.trace(within_PP) / len(within_PP) + 1e-9
        _, vectors_PD = scipy.linalg.eigh(between_PP, within_PP + ridge * np.eye(places_count), subset_by_index=wanted)
    return Fingerprint(mean_P, np.ascontiguousarray(vectors_PD[:, ::-1], np.float32))


def reduced(image_SS: Bytes) -> Bytes:
    """The image at 64 pixels a side: averages over areas where it is a multiple of that, else interpolated."""
    size = len(image_SS)
    if size == SIZE:
        return image_SS
    if size % SIZE == 0:
        parts = image_SS.reshape(SIZE, size // SIZE, SIZE, size // SIZE).mean(axis=(1, 3))
    else:
        smooth = gaussian_filter(image_SS.astype(np.float32), max(0.0, 0.5 * (size / SIZE - 1)))
        parts = zoom(smooth, SIZE / size, order=1, grid_mode=True, mode="nearest")
    return np.asarray(np.rint(np.clip(parts, 0, 255)), np.uint8)


def band_pass(image_SS: Bytes) -> Floats:
    """The image at 64 pixels without its finest and its coarsest structure, float32 [64, 64]; 0 is locally even."""
    x = reduced(image_SS).astype(np.float32) / 255
    return np.asarray(gaussian_filter(x, FINE) - gaussian_filter(x, COARSE), np.float32)


def _left_over(image_SS: Bytes, seed: int, row: int) -> Bytes:
    rng = generator(seed, "fingerprint", "copy", row)
    down, across, turn = rng.uniform(-1, 1, 3) * [LEFT_OVER[0], LEFT_OVER[0], LEFT_OVER[1]]
    return degraded(moved(image_SS, down, across, turn), rng, exposure=True, noise=True, jpeg=True)


def _scatter(x_NP: Floats) -> npt.NDArray[np.float64]:
    x = x_NP.astype(np.float64)
    return np.asarray(x.T @ x / len(x))


def _unit(x_ND: Floats) -> Floats:
    length = np.linalg.norm(x_ND, axis=1, keepdims=True)
    return np.asarray(np.divide(x_ND, length, out=np.zeros_like(x_ND), where=length > 0), np.float32)


@lru_cache(maxsize=4)
def _sampling(rotations: tuple[float, ...], shifts: tuple[float, ...], mirrored: bool) -> scipy.sparse.csr_array:
    """The sparse matrix [V P, 64 * 64] that takes an image's places in each view (bilinear; the border repeats)."""
    middle, reach = (SIZE - 1) / 2, STEP * (PLACES - 1) / 2
    line = np.linspace(-reach, reach, PLACES)
    down_P, across_P = (grid.ravel() for grid in np.meshgrid(line, line, indexing="ij"))
    rows, columns, weights, first = [], [], [], 0
    for side in (1, -1) if mirrored else (1,):
        for turn in rotations:
            cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
            for by_down in shifts:
                for by_across in shifts:
                    y = np.clip(middle + cos * down_P + sin * across_P + by_down, 0, SIZE - 1)
                    x = np.clip(middle + side * (cos * across_P - sin * down_P + by_across), 0, SIZE - 1)
                    top, left = (np.minimum(at.astype(np.int64), SIZE - 2) for at in (y, x))
                    for below in (0, 1):
                        for right in (0, 1):
                            columns.append((top + below) * SIZE + left + right)
                            weights.append(np.abs(1 - below - (y - top)) * np.abs(1 - right - (x - left)))
                            rows.append(first + np.arange(len(y)))
                    first += len(y)
    return scipy.sparse.csr_array(
        (np.concatenate(weights).astype(np.float32), (np.concatenate(rows), np.concatenate(columns))),
        shape=(first, SIZE * SIZE),
    )
