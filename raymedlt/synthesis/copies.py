"""Memorisation: is an image a copy of a training image? The nearest one is found, and its distance weighed.

The ratio of that distance to what it is for a held-out real image is taken twice, each as a share of its median over
held-out real images, and the smaller counts:

    distance to the nearest training image / distance to the tenth nearest    (what is expected among such images)
    distance to the nearest training image                                    (what is expected of any image)

The first one decides nearly always: an image with little structure of its own lies close to many, and its copies far
from it, so one limit for all misses them. The second one catches copies of what the training set holds ten times.

An image is refused as a copy below a ratio that only a known share of held-out real images (other patients, same
source) falls below: a split-conformal quantile, so that another real image falls below it with at most about that
probability if it comes from the same distribution (Angelopoulos and Bates, arXiv 2107.07511, section 1; for two tests
that tighten together: Gupta et al., Pattern Recognition 2022, nested sets).

What is found: training images that were moved, turned, exposed, stored or noised as in planted.py, also mirrored. What
is not: a part of a training image in an otherwise new one, and changes far beyond those (benchmarks/synthesis_copies.py
prints where it ends). So a passed image is no proof of privacy.

Source: a training image is extracted if it is far closer than its own neighbours are: Carlini et al., Extracting
training data from diffusion models, USENIX Security 2023, section 5.1; the memorisation of chest X-rays by diffusion
models: Dar et al. (arXiv 2402.01054).

N training images, B images in question, V views, D length of a fingerprint.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from raymedlt.clustering.faiss_import import faiss
from raymedlt.errors import InputError
from raymedlt.intervals import wilson
from raymedlt.seeds import generator
from raymedlt.synthesis.fingerprint import Bytes, Fingerprint, Floats, learn, reduced
from raymedlt.synthesis.planted import COMBINED, Kind, plant

EXACT_UP_TO = 10_000
"""Training images that are searched one by one; from there on in cells (FAISS IVF), of which PROBES are looked into."""
PROBES = 16
MOST_HELD_OUT = 4000
"""Held-out images that the threshold is taken from, at most."""
AROUND = 10
"""Which nearest training image tells what is expected among such images."""
TINY = 1e-9
"""Stands for a distance of 0 where one is divided by."""
PLANTED = 300
"""Copies that a fresh search is tried on."""
BLOCK = 1024
"""Images that are compared with earlier ones at a time."""


@dataclass(frozen=True)
class Nearest:
    """The nearest training images of each image in question. Distances are the least over the views, 0 to 2."""

    rows_B: npt.NDArray[np.int64]
    """Which of the training images is nearest; -1 for an image without structure."""
    distances_B: npt.NDArray[np.float64]
    """To it; NaN for an image without structure."""
    around_B: npt.NDArray[np.float64]
    """To the tenth nearest."""


@dataclass(frozen=True, eq=False)
class CopySearch:
    """Finds copies of training images. Make it with `fit_copies`."""

    fingerprint: Fingerprint
    vectors_ND: Floats
    """Fingerprints of the training images."""
    centres_KD: Floats
    """Centres of the cells; none for an exact search."""
    expected: float
    """Median of distance / around of held-out real images."""
    expected_distance: float
    """Median of their distances."""
    weight: float
    """Of the ratio by distance alone, so that one threshold holds for both."""
    threshold: float
    """Ratios below it are copies."""
    index: Any
    """FAISS's."""

    @property
    def closest(self) -> float:
        """The distance below which an image is a copy whatever lies around it."""
        return self.threshold / self.weight * self.expected_distance

    def nearest(self, images_BSS: Bytes) -> Nearest:
        """The nearest training images of each, over all views.

        Time per image: V D N multiplications in an exact search (8 ms at 1,200 training images on one core), V D (K +
        PROBES N / K) in cells (20 ms at 200,000). Memory: N D floats, 102 MB for 200,000 training images.
        """
        with threadpool_limits(1, user_api="blas"):  # the last digits depend on how threads cut the products
            found = [self._nearest(image) for image in images_BSS]
        rows, distances, around = zip(*found, strict=True) if found else ((), (), ())
        return Nearest(np.array(rows, np.int64), np.array(distances, np.float64), np.array(around, np.float64))

    def ratios(self, nearest: Nearest) -> npt.NDArray[np.float64]:
        """Distances as shares of what is expected of a held-out real image, float64 [B]; 1 in the median."""
        return np.minimum(
            nearest.distances_B / np.maximum(nearest.around_B, TINY) / self.expected,
            self.weight * nearest.distances_B / self.expected_distance,
        )

    def are_copies(self, nearest: Nearest) -> npt.NDArray[np.bool_]:
        """Which images are refused. What can't be compared counts as a copy."""
        return ~(self.ratios(nearest) >= self.threshold)

    def _nearest(self, image_SS: Bytes) -> tuple[int, float, float]:
        views_VD = self.fingerprint.views(image_SS)
        if not np.isfinite(views_VD).all() or not views_VD.any():
            return -1, math.nan, math.nan
        likeness_VK, rows_VK = self.index.search(views_VD, AROUND)
        order = np.argsort(-likeness_VK, axis=None, kind="stable")  # a row's first place is that of its best view
        rows, first = np.unique(rows_VK.ravel()[order], return_index=True)
        rows, first = rows[rows >= 0], first[rows >= 0]  # -1: a cell with too few images
        if len(rows) < AROUND:
            return -1, math.nan, math.nan
        best = np.argsort(first)
        likeness = likeness_VK.ravel()[order][first[best]]
        return int(rows[best[0]]), distance_of(float(likeness[0])), distance_of(float(likeness[AROUND - 1]))


def distance_of(likeness: float) -> float:
    """Between unit vectors with that inner product."""
    return math.sqrt(max(0.0, 2 - 2 * likeness))


def likeness_of(distance: float) -> float:
    """The inverse of `distance_of`."""
    return 1 - distance**2 / 2


@dataclass(frozen=True)
class Trial:
    """How a search did on planted copies of training images."""

    planted: int
    caught: int

    @property
    def share(self) -> float:
        """Share of the planted copies that were caught."""
        return self.caught / self.planted

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with a 95 % interval of the share."""
        return {"planted": self.planted, "caught": self.caught, "interval": list(wilson(self.caught, self.planted))}


def fit_copies(
    train_NSS: Bytes, held_out_MSS: Bytes, *, false_refusals: float, least_caught: float, length: int, seed: int
) -> tuple[CopySearch, Trial]:
    """A search among the training images, with its threshold from held-out real ones, tried on planted copies.

    Args:
        train_NSS: what the generator was trained on, uint8.
        held_out_MSS: real images of other patients that neither generator nor classifier was trained on.
        false_refusals: share of held-out real images that may be refused.
        least_caught: share of planted copies that must be caught.
        length: D.
        seed: of the learnt map, the trial and the choices.

    Raises:
        InputError: too few held-out images for a threshold at `false_refusals`; or the trial falls short, so that the
            search would be no protection.
    """
    needed = math.ceil(1 / false_refusals) - 1
    if len(held_out_MSS) < needed or len(train_NSS) < AROUND:
        raise InputError(
            f"{len(train_NSS)} training and {len(held_out_MSS)} held-out images",
            f"at least {AROUND} and {needed}, so that a threshold can be set which {false_refusals:.3g} of real images "
            "fall below",
            "hold back more validation patients, or allow more false refusals",
        )
    fingerprint = learn(train_NSS, length=length, seed=seed)
    vectors = fingerprint.vectors(train_NSS)
    centres = cell_centres(vectors, seed)
    search = CopySearch(fingerprint, vectors, centres, 1.0, 1.0, 1.0, 0.0, build_index(vectors, centres))
    chosen = generator(seed, "copies", "held out").permutation(len(held_out_MSS))[:MOST_HELD_OUT]
    fitted = _with_threshold(search, search.nearest(held_out_MSS[np.sort(chosen)]), false_refusals)
    trial = try_copies(fitted, train_NSS, seed=seed)
    if trial.share < least_caught:
        raise InputError(
            f"a search for copies that catches {trial.caught} of {trial.planted} planted ones",
            f"at least {least_caught:.3g} of them at {false_refusals:.3g} false refusals of real images",
            "check that no image or patient is in both parts; if images are so much alike, allow more false refusals",
        )
    return fitted, trial


def _with_threshold(search: CopySearch, held_out: Nearest, false_refusals: float) -> CopySearch:
    """The search with what held-out real images say about both ratios.

    Both thresholds lie at the same rank of their own ratio, the highest at which no more than the wanted share of the
    held-out images falls below either of them.
    """
    fair = np.isfinite(held_out.distances_B)  # one without structure is refused whatever the threshold
    distances = held_out.distances_B[fair]
    local = distances / np.maximum(held_out.around_B[fair], TINY)
    allowed = math.floor(false_refusals * (len(fair) + 1)) - int((~fair).sum())
    expected, expected_distance = (float(np.median(each)) if len(each) else 0.0 for each in (local, distances))
    if allowed < 1 or expected <= 0:
        raise InputError(
            f"{int((~fair).sum())} of {len(fair)} held-out images without structure",
            "real images of other patients",
            "look at the prepared images",
        )
    rank = allowed
    by_local, by_distance = np.sort(local), np.sort(distances)
    while ((local < by_local[rank - 1]) | (distances < by_distance[rank - 1])).sum() >= allowed:
        rank -= 1
    threshold = float(by_local[rank - 1]) / expected
    weight = threshold / max(float(by_distance[rank - 1]) / expected_distance, TINY)
    return dataclasses.replace(
        search, expected=expected, expected_distance=expected_distance, weight=weight, threshold=threshold
    )


def try_copies(
    search: CopySearch, train_NSS: Bytes, *, seed: int, count: int = PLANTED, kinds: tuple[Kind, ...] = COMBINED
) -> Trial:
    """Plant `count` copies of training images, of each kind in turn, and see how many are caught."""
    rng = generator(seed, "copies", "trial")
    rows = rng.integers(0, len(train_NSS), count)
    copies = [plant(reduced(train_NSS[row]), kinds[n % len(kinds)], rng) for n, row in enumerate(rows)]
    return Trial(count, int(search.are_copies(search.nearest(np.stack(copies))).sum()))


# The index


def build_index(vectors_ND: Floats, centres_KD: Floats) -> Any:
    """FAISS's index by inner product: exact, or in the given cells. The same arguments give the same index."""
    library, length = faiss(), vectors_ND.shape[1]
    if not len(centres_KD):
        index = library.IndexFlatIP(length)
    else:
        cells = library.IndexFlatIP(length)
        cells.add(centres_KD)
        index = library.IndexIVFFlat(cells, length, len(centres_KD), library.METRIC_INNER_PRODUCT)
        index.referenced_objects = [cells]  # FAISS keeps a bare pointer
        index.is_trained = True
        index.nprobe = PROBES
    index.add(vectors_ND)
    return index


def cell_centres(vectors_ND: Floats, seed: int) -> Floats:
    """4 sqrt(N) centres by spherical k-means on at most 64 vectors a centre; none where the search is exact."""
    if len(vectors_ND) <= EXACT_UP_TO:
        return np.zeros((0, vectors_ND.shape[1]), np.float32)
    count = round(4 * math.sqrt(len(vectors_ND)))
    rows = np.sort(generator(seed, "copies", "cells").permutation(len(vectors_ND))[: 64 * count])
    means = faiss().Kmeans(
        vectors_ND.shape[1],
        count,
        niter=10,
        spherical=True,
        seed=1,
        max_points_per_centroid=64,
        min_points_per_centroid=1,
    )
    means.train(vectors_ND[rows])
    return np.asarray(means.centroids, np.float32)


# Repeats within a set


def repeats(vectors_BD: Floats, standing_B: npt.NDArray[np.bool_], distance: float) -> npt.NDArray[np.int64]:
    """Which images repeat an earlier one of the same set, int64 [B]: the first row that each repeats, or -1.

    In the order of the rows; an image is compared with the earlier ones that stand themselves, so the first of a group
    stays. Images are compared as they are, not moved: a collapsed generator draws the same image in the same place.

    Args:
        vectors_BD: `Fingerprint.vectors`.
        standing_B: images that no other check has refused; the others neither repeat nor are repeated.
        distance: closer than this is a repeat.

    Every pair is compared, BLOCK rows at a time: O(B^2 D / 2) multiplications and B D floats beside `vectors_BD`. Those
    products are rounded as the library likes; the pairs that they leave in question are weighed in float64, one by one,
    so that neither blocks nor threads show in the result.
    """
    index, least = faiss().IndexFlatIP(vectors_BD.shape[1]), likeness_of(distance)
    around = least - vectors_BD.shape[1] * float(np.finfo(np.float32).eps)  # a product of unit vectors errs by less
    found = np.full(len(vectors_BD), -1, np.int64)
    rows, indexed = np.flatnonzero(standing_B), np.zeros(0, np.int64)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        own = vectors_BD[block]
        ends, _, near = index.range_search(own, around)
        among, stays = own @ own.T > around, np.zeros(len(block), bool)
        for place, row in enumerate(block):
            earlier = np.concatenate([indexed[near[ends[place] : ends[place + 1]]], block[among[place] & stays]])
            likeness = (vectors_BD[earlier].astype(np.float64) * vectors_BD[row]).sum(axis=1)
            repeated = earlier[likeness > least]
            stays[place] = not len(repeated)
            if len(repeated):
                found[row] = repeated.min()
        index.add(own[stays])
        indexed = np.concatenate([indexed, block[stays]])
    return found
