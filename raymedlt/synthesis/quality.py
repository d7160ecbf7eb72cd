"""How real a set of synthetic images looks and how varied it is, beside the same figures between two real sets.

Figures of a set without that floor say little: they depend on the number of images, on the features and on how
heterogeneous the real images are themselves. So `compare` draws as many held-out real images as synthetic ones, and
gives every figure for both against the same real training images.

R real images, F synthetic (or held-out real) images, D features, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from raymedlt.errors import InputError
from raymedlt.seeds import generator

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
_BLOCK = 1024  # rows of a distance or kernel matrix that are held at a time

NEIGHBOURS = 5
"""k of precision, recall, density and coverage; a set with no more images has none of them."""
SUBSETS = 100
"""Random halves behind KID's standard error."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of MS-SSIM's five scales (Wang, Simoncelli and Bovik 2003); smaller images use the first ones, made to sum to 1."""
WINDOW = 11


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Figures of one set against real training images. NaN where there are too few images."""

    kid: float
    """Kernel inception distance: 0 for the same distribution; unbiased, so it may be below 0."""
    kid_error: float
    """Its standard error, from subsets."""
    precision: float
    """Share of the set that lies where real images are."""
    recall: float
    """Share of the real images that lie where the set is."""
    density: float
    """As precision, but counts how many real images are near: 1 expected for the same distribution."""
    coverage: float
    """Share of the real images that have one of the set near."""
    ms_ssim: float
    """Mean similarity of two images of the set: far above the real one means that they are all alike."""


def compare(
    train: tuple[Floats, npt.NDArray[np.uint8]],
    held_out: tuple[Floats, npt.NDArray[np.uint8]],
    synthetic: tuple[Floats, npt.NDArray[np.uint8]],
    *,
    seed: int,
    key: str = "",
    neighbours: int = NEIGHBOURS,
    pairs: int = 200,
) -> tuple[Quality, Quality, int]:
    """The figures of synthetic images, and those of as many held-out real images: the floor.

    Args:
        train, held_out, synthetic: features [n, D] and images uint8 [n, S, S], of one class (or of all).
        seed, key: of the draws: which images stand for the larger of the two sets, and which pairs are compared.
        neighbours: k of precision, recall, density and coverage.
        pairs: of images for MS-SSIM.

    Returns:
        (synthetic, floor, images of each that were compared). O((R^2 + R F) D) time, O(R + F) rows of memory.
    """
    count = min(len(held_out[0]), len(synthetic[0]))
    found = []
    for name, (features, images) in (("synthetic", synthetic), ("held out", held_out)):
        rows = np.sort(generator(seed, "quality", key, name).permutation(len(features))[:count])
        found.append(_figures(train[0], features[rows], images[rows], seed, f"{key}/{name}", neighbours, pairs))
    return found[0], found[1], count


def _figures(
    real: Floats, own: Floats, images: npt.NDArray[np.uint8], seed: int, key: str, neighbours: int, pairs: int
) -> Quality:
    if min(len(real), len(own)) <= neighbours:
        return Quality(**{field.name: float("nan") for field in fields(Quality)})
    precision, recall = precision_recall(real, own, neighbours)
    density, coverage = density_coverage(real, own, neighbours)
    return Quality(
        kid=kid(real, own), kid_error=kid_error(real, own, seed=seed, key=key),
        precision=precision, recall=recall, density=density, coverage=coverage,
        ms_ssim=ms_ssim_within(images, seed=seed, key=key, pairs=pairs),
    )  # fmt: skip


# Distributions of features


def kid(real_RD: npt.ArrayLike, own_FD: npt.ArrayLike) -> float:
    """Kernel inception distance: the unbiased estimate of MMD^2 with the kernel k(x, y) = (x.y / D + 1)^3.

        1/(R(R-1)) sum_{i!=j} k(r_i, r_j) + 1/(F(F-1)) sum_{i!=j} k(f_i, f_j) - 2/(R F) sum_{i,j} k(r_i, f_j)

    Over all images at once, not as a mean over subsets: the same expectation with less variance.

    Source: Binkowski et al., Demystifying MMD GANs, ICLR 2018, section 3 and eq. 4.

    Raises:
        InputError: fewer than two images in a set, or features of different widths.
    """
    real, own = _two(real_RD, own_FD, least=2)
    return float(_kids(real, own, np.ones((1, len(real))), np.ones((1, len(own))))[0])


def kid_error(
    real_RD: npt.ArrayLike, own_FD: npt.ArrayLike, *, seed: int, key: str = "", subsets: int = SUBSETS
) -> float:
    """Standard error of `kid`: the standard deviation of KID over random halves of both sets.

    As Binkowski et al. report KID, but with halves drawn without replacement: the spread of a mean over halves about
    the mean of all is the standard error of the latter (delete-d jackknife, Shao and Wu, Ann Stat 1989). Between sets
    that do not differ KID is a degenerate U-statistic instead, and the error comes out nearly twice too large.

    Raises:
        InputError: fewer than four images in a set, or features of different widths.
    """
    real, own = _two(real_RD, own_FD, least=4)
    rng = generator(seed, "quality", key, "kid")
    return float(np.std(_kids(real, own, _halves(rng, len(real), subsets), _halves(rng, len(own), subsets)), ddof=1))


def _halves(rng: np.random.Generator, count: int, subsets: int) -> Floats:
    """1 for a row in a subset, float64 [subsets, count]."""
    members = np.zeros((subsets, count))
    members[:, : count // 2] = 1
    return rng.permuted(members, axis=1)


def _kids(real: Floats, own: Floats, real_SR: Floats, own_SF: Floats) -> Floats:
    """KID between subset s of one set and subset s of the other, float64 [S]; a block of a kernel matrix at a time."""

    def within(x: Floats, members_SN: Floats) -> Floats:
        own_pairs = ((np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3) @ members_SN.T
        size = members_SN.sum(axis=1)
        return np.asarray((_kernel_sums(x, x, members_SN, members_SN) - own_pairs) / (size * (size - 1)))

    between = _kernel_sums(real, own, real_SR, own_SF) / (real_SR.sum(axis=1) * own_SF.sum(axis=1))
    return np.asarray(within(real, real_SR) + within(own, own_SF) - 2 * between)


def _kernel_sums(x: Floats, y: Floats, of_x_SN: Floats, of_y_SM: Floats) -> Floats:
    """Sum of k over all pairs of a subset of x and a subset of y, float64 [S]."""
    starts = range(0, len(x), _BLOCK)
    parts = [((_kernel(x[at : at + _BLOCK], y) @ of_y_SM.T).T * of_x_SN[:, at : at + _BLOCK]).sum(1) for at in starts]
    return np.asarray(np.sum(parts, axis=0))


def precision_recall(
    real_RD: npt.ArrayLike, own_FD: npt.ArrayLike, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Improved precision and recall.

    A set's manifold is the union of balls about its points that reach to the k-th nearest other point of the set.
    Precision: the share of own points on the real manifold; recall: the share of real points on the own manifold.

    Source: Kynkaanniemi et al., NeurIPS 2019, eq. 1 and 2.

    Raises:
        InputError: not more than `neighbours` images in a set, or features of different widths.
    """
    real, own = _two(real_RD, own_FD, least=neighbours + 1)
    return _share_inside(own, real, radii(real, neighbours)), _share_inside(real, own, radii(own, neighbours))


def density_coverage(
    real_RD: npt.ArrayLike, own_FD: npt.ArrayLike, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Density and coverage: the real manifold alone counts, so an outlier among the own images can't widen anything.

    Density: real balls that an own point lies in, over k, mean over the own points. Coverage: the share of real balls
    with an own point in them.

    Source: Naeem et al., Reliable fidelity and diversity metrics for generative models, ICML 2020, eq. 4 and 5.

    Raises:
        InputError: as `precision_recall`.
    """
    real, own = _two(real_RD, own_FD, least=neighbours + 1)
    radius_R = radii(real, neighbours)
    inside, covered = 0, np.zeros(len(real), bool)
    for part in _blocks(own):
        near = _distances(part, real) <= radius_R
        inside += int(near.sum())
        covered |= near.any(axis=0)
    return inside / (neighbours * len(own)), float(covered.mean())


def radii(points_ND: Floats, neighbours: int) -> Floats:
    """Distance of each point to its k-th nearest other point, float64 [N]; N > k."""
    found = []
    for start, part in zip(range(0, len(points_ND), _BLOCK), _blocks(points_ND), strict=True):
        distances = _distances(part, points_ND)
        distances[np.arange(len(part)), start + np.arange(len(part))] = np.inf  # not itself; twins count
        found.append(np.partition(distances, neighbours - 1, axis=1)[:, neighbours - 1])
    return np.concatenate(found)


def _share_inside(points: Floats, centres: Floats, radius: Floats) -> float:
    return sum(int((_distances(part, centres) <= radius).any(axis=1).sum()) for part in _blocks(points)) / len(points)


def _kernel(x: Floats, y: Floats) -> Floats:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def _distances(x: Floats, y: Floats) -> Floats:
    """Euclidean; by differences where that matters would cost D times the memory, so tiny ones are off by 1e-7."""
    squares = np.einsum("nd,nd->n", x, x)[:, None] + np.einsum("nd,nd->n", y, y) - 2 * (x @ y.T)
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


def _blocks(x: Floats) -> Iterator[Floats]:
    return (x[start : start + _BLOCK] for start in range(0, len(x), _BLOCK))


def _two(real_RD: npt.ArrayLike, own_FD: npt.ArrayLike, least: int) -> tuple[Floats, Floats]:
    real, own = np.asarray(real_RD, np.float64), np.asarray(own_FD, np.float64)
    if real.ndim != 2 or own.ndim != 2 or real.shape[1] != own.shape[1] or min(len(real), len(own)) < least:
        raise InputError(
            f"features of shapes {real.shape} and {own.shape}",
            f"two tables of the same width with at least {least} rows each",
            "compare fewer neighbours, or more images",
        )
    return real, own


# Likeness of the images of one set


def ms_ssim_within(images_NSS: npt.NDArray[np.uint8], *, seed: int, key: str = "", pairs: int = 200) -> float:
    """Mean MS-SSIM over keyed random pairs of different images; NaN for fewer than two images.

    Source: Wang, Simoncelli and Bovik, Asilomar 2003; as a measure of collapse within a class: Odena et al., ICML 2017.
    """
    count = len(images_NSS)
    if count < 2:
        return float("nan")
    rng = generator(seed, "quality", key, "pairs")
    first = rng.integers(0, count, pairs)
    second = (first + rng.integers(1, count, pairs)) % count
    return float(ms_ssim(images_NSS[first], images_NSS[second]).mean())


def scales_for(size: int) -> int:
    """Scales of MS-SSIM for images of `size` pixels: 5 from 176 pixels on, 3 for 64.

    The window must fit at the smallest scale, and torchmetrics has a condition of its own.
    """
    fits = [
        count
        for count in range(1, 6)
        if size // 2 ** (count - 1) >= WINDOW and size // max(1, count - 1) ** 2 >= WINDOW
    ]
    return max(fits, default=0)


def ms_ssim(first_NSS: npt.NDArray[np.uint8], second_NSS: npt.NDArray[np.uint8]) -> Floats:
    """Multi-scale structural similarity of each pair, float64 [N], 1 for equal images; with as many scales as fit.

    Raises:
        InputError: images below 11 pixels.
    """
    import torch  # here, so that the figures above don't need it
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    size = first_NSS.shape[-1]
    scales = scales_for(size)
    if not scales:
        raise InputError(f"images of {size} pixels", f"at least {WINDOW}", "compare larger images")
    weights = SCALE_WEIGHTS[:scales]
    betas = tuple(weight / sum(weights) for weight in weights)
    compute: Callable[..., torch.Tensor] = measure

    def unit(images: npt.NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1)

    found = []
    for start in range(0, len(first_NSS), _BLOCK):
        part = slice(start, start + _BLOCK)
        pair = unit(first_NSS[part]), unit(second_NSS[part])
        found.append(compute(*pair, betas=betas, reduction="none", data_range=1.0).double().numpy())
    return np.atleast_1d(np.concatenate([np.atleast_1d(each) for each in found]))
