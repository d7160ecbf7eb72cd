"""Which images an epoch is made of: repeat-factor sampling, and the order in which they come.

Shapes: N images, C classes, E draws of an epoch, T steps, G images per step over all replicas.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raymedlt.errors import InputError
from raymedlt.seeds import generator, keyed_seed


def repeat_factors(labels_NC: ArrayLike, threshold: float, largest: float = 10.0) -> NDArray[np.float64]:
    """How often each image is drawn in an epoch, on average (after Gupta et al., LVIS, CVPR 2019, section 4).

    f_c = n_c / sum n, class c's share of all labels; r_c = max(1, sqrt(threshold / f_c)); an image's factor is the
    largest r_c of its labels, clipped to [1, largest]; 1 for an image without labels. O(N C) time, O(N) memory on top.

    Args:
        labels_NC: 0 and 1 (or False and True); an unknown label counts as 0.
        threshold: share of all labels below which a class is repeated.
        largest: largest factor.

    Returns:
        factors_N.

    Raises:
        InputError: not a matrix with one row per image.
    """
    labels = np.asarray(labels_NC)
    if labels.ndim != 2:
        raise InputError(f"labels of shape {labels.shape}", "one row per training image, one column per class")
    factors_N = np.ones(len(labels))
    for has_N, factor in zip((labels == 1).T, class_factors((labels == 1).sum(axis=0), threshold), strict=True):
        np.maximum(factors_N, factor, out=factors_N, where=has_N)
    return np.asarray(np.minimum(factors_N, largest))


def class_factors(counts_C: ArrayLike, threshold: float) -> NDArray[np.float64]:
    """r_c of `repeat_factors` from the number of positive images per class; 1 for a class without any."""
    counts = np.asarray(counts_C, np.float64)
    shares = counts / max(counts.sum(), 1.0)
    factors = np.sqrt(np.divide(threshold, shares, out=np.ones_like(shares), where=shares > 0))
    return np.asarray(np.maximum(factors, 1.0))


def rows_instead(labels_NC: ArrayLike, real_N: ArrayLike, image_ids_N: ArrayLike, *, seed: int) -> NDArray[np.int64]:
    """For each synthetic image a real one that shows its rarest class: the fair control of a synthetic set.

    A classifier that trains on these copies sees the rare classes as often as with the synthetic images, and learns
    nothing new about them. O(N C).

    Args:
        labels_NC: 0 and 1; classes are rare by the number of real images that show them.
        real_N: False where an image is synthetic.
        image_ids_N: of the images; the choice for each synthetic one is keyed by its own.
        seed: of the choice.

    Returns:
        Row numbers, int64, one per synthetic image; none for one whose classes no real image shows.
    """
    labels, real, names = np.asarray(labels_NC) == 1, np.asarray(real_N, bool), np.asarray(image_ids_N)
    counts = labels[real].sum(axis=0)
    showing = [np.flatnonzero(real & labels[:, number]) for number in range(labels.shape[1])]
    chosen = []
    for row in np.flatnonzero(~real):
        own = [number for number in np.flatnonzero(labels[row]) if counts[number]]
        if own:
            among = showing[min(own, key=lambda number: (counts[number], number))]
            chosen.append(among[keyed_seed(seed, "instead", str(names[row])) % len(among)])
    return np.array(chosen, np.int64)


def epoch_order(factors_N: ArrayLike, *, seed: int, epoch: int, length: int | None = None) -> NDArray[np.int64]:
    """The images of an epoch, as row numbers in the order of training.

    Image i comes floor(factor) times, and once more with probability factor - floor(factor), so factor times on
    average; then all draws are shuffled. A pure function of its arguments: the rows' order must follow from the images
    (sorted ids), never from arrival. A million images take about 0.1 s.

    Args:
        factors_N: at least 0; ones give every image once (uniform sampling).
        seed: the run's.
        epoch: number of the epoch.
        length: draws of the epoch, so that every epoch has as many steps (`expected_length(factors)` suits). A longer
            order is cut after the shuffle; a shorter one goes on with draws of the same epoch in another order.

    Returns:
        order_E, int64, in [0, N).

    Raises:
        InputError: no images, or a factor that is negative or not finite.
    """
    factors = np.asarray(factors_N, np.float64)
    if factors.ndim != 1 or not len(factors) or not np.isfinite(factors).all() or factors.min() < 0:
        raise InputError(
            f"repeat factors of shape {factors.shape}, or some negative or not finite", "one factor >= 0 per image"
        )
    whole = np.floor(factors)
    extra = generator(seed, "repeat", epoch).random(len(factors)) < factors - whole
    draws = np.repeat(np.arange(len(factors), dtype=np.int64), whole.astype(np.int64) + extra)
    shuffle = generator(seed, "shuffle", epoch)
    order = shuffle.permutation(draws)
    if length is None:
        return order
    if not len(draws) and length > 0:
        raise InputError(
            "repeat factors that draw no image in this epoch", "factors of at least 1", "see loss.sampling"
        )
    rounds = [order]
    for _ in range((length - 1) // len(draws) if length else 0):
        rounds.append(shuffle.permutation(draws))
    return np.concatenate(rounds)[:length]


def expected_length(factors_N: ArrayLike) -> int:
    """Draws of an epoch on average, rounded: the same in every epoch, as learning-rate schedules need it."""
    return max(1, round(float(np.sum(np.asarray(factors_N, np.float64)))))


def global_batches(order_E: ArrayLike, batch: int) -> NDArray[np.int64]:
    """The steps of an epoch, all of one size: [ceil(E / batch), batch].

    The last step is filled up from the start of the order, so every image is seen and shapes stay fixed; up to
    batch - 1 images come once more. Replica r of R takes the columns r * batch / R to (r + 1) * batch / R - 1.

    Raises:
        InputError: an empty order, or batch < 1.
    """
    order = np.asarray(order_E, np.int64)
    if order.ndim != 1 or not len(order) or batch < 1:
        raise InputError(f"{order.size} draws in steps of {batch} images", "at least one draw and one image per step")
    steps = -(-len(order) // batch)
    return np.resize(order, (steps, batch))
