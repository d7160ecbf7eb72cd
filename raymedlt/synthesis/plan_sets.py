"""Which label sets go with a class: drawn from the real training images that show it, smoothed.

For a target class c with n_c real training images, a set S that holds c is drawn with the probability

    P(S | c) = (n_c(S) + mu Q_c(S)) / (n_c + mu)
    Q_c(S)  ~  prod_{c' in S, c' != c} p(c'|c)  prod_{c' not in S} (1 - p(c'|c)),  0 where S is impossible
    p(c'|c)  = (n_cc' + alpha p(c')) / (n_c(c') + alpha)

n_c(S): images with exactly the set S (classes left out by the caller aside); n_cc': images with both; n_c(c'): images
with c of which c' is known; p(c') = n_c' / (images of which c' is known). mu and alpha count pseudo-images: the rarer a
class, the more of its sets are new ones. This is Bayesian smoothing with a Dirichlet prior (Zhai and Lafferty, ACM TOIS
22(2), 2004, section 3) over label sets. Both parts have the same p(c'|c), alpha and impossible sets aside, so smoothing
adds sets without moving the co-occurrence graph; label *pairs* beside c are independent in the second part only.

Impossible is a set with two classes that no image shows together, though by their frequencies, were they independent,
at least `never_below` images would; a normal class beside a finding; and a set larger than the largest real one.

Shapes: N real training images, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raymedlt.errors import InputError
from raymedlt.images.label_formats import is_normal

_ROWS = 65_536  # images counted at once
_TRIES = 200  # draws from Q_c before a real set is taken; each is possible with a probability far above 1 %


class Drawn(NamedTuple):
    """One drawn label set."""

    members: tuple[int, ...]
    """Numbers of the classes, rising."""
    donors: tuple[int, ...]
    """For each member a real training image that shows it: one image for all of them if the set is a real image's."""
    smoothed: bool
    """Drawn from Q_c, not from a real image. (The set may exist all the same.)"""


@dataclass(frozen=True)
class RealSets:
    """The label sets of the real training images, and what follows from them."""

    classes: tuple[str, ...]
    sets_NC: NDArray[np.bool_]
    """Known positives; normal classes are taken out."""
    rows_of: tuple[NDArray[np.int64], ...]
    """For each class the images that show it."""
    normal_C: NDArray[np.bool_]
    """Classes that mean that there is no finding."""
    counts_C: NDArray[np.int64]
    shares_CC: NDArray[np.float64]
    """Row c: n_cc' / n_c(c'), without smoothing; 0 where c has no image."""
    conditional_CC: NDArray[np.float64]
    """Row c: p(c'|c); 1 for c itself, 0 for impossible pairs."""
    impossible_CC: NDArray[np.bool_]
    largest: int
    """Classes in the largest real set."""
    smoothed_C: NDArray[np.float64]
    """Share of the draws that come from Q_c: mu / (n_c + mu)."""

    def number(self, name: str) -> int:
        """The column of a class that can be planned.

        Raises:
            InputError: no such class, one that means that there is no finding, or one without a real training image.
        """
        if name not in self.classes:
            raise InputError(f"the class {name!r}", f"one of {list(self.classes)}", "check its spelling")
        number = self.classes.index(name)
        if self.normal_C[number]:
            raise InputError(
                f"the class '{name}', which means that there is no finding",
                "classes that an image shows",
                "leave it out",
            )
        if not self.counts_C[number]:
            raise InputError(
                f"no real training image shows '{name}'",
                "at least one: what goes with a class is learnt from its real images",
                "leave the class out of the plan",
            )
        return number

    def why_impossible(self, members: Sequence[int]) -> str:
        """Why a set can't be, "" if it can."""
        if len(members) > self.largest:
            return f"{len(members)} classes, and no real training image shows more than {self.largest}"
        block = self.impossible_CC[np.ix_(members, members)]
        if not block.any():
            return ""
        one, two = np.argwhere(block)[0]
        names = f"'{self.classes[members[one]]}' and '{self.classes[members[two]]}'"
        return f"no real training image shows {names} together, though both are frequent enough to meet by chance"

    def draw(self, target: int, rng: np.random.Generator) -> Drawn:
        """A set that holds `target`; see the module. About 30 microseconds."""
        row = self._image_with(target, rng)
        if rng.random() < self.smoothed_C[target]:
            for _ in range(_TRIES):
                members = np.flatnonzero(rng.random(len(self.classes)) < self.conditional_CC[target]).tolist()
                if not self.why_impossible(members):
                    return Drawn(tuple(members), self.donors(members, rng), True)
        members = np.flatnonzero(self.sets_NC[row]).tolist()
        return Drawn(tuple(members), (row,) * len(members), False)

    def donors(self, members: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
        """For each class a real training image that shows it."""
        return tuple(self._image_with(member, rng) for member in members)

    def _image_with(self, member: int, rng: np.random.Generator) -> int:
        rows = self.rows_of[member]
        return int(rows[int(rng.random() * len(rows))])


def real_sets(
    labels_NC: ArrayLike,
    known_NC: ArrayLike | None,
    classes: Sequence[str],
    *,
    normal_classes: Collection[str] = (),
    smoothing: float = 5.0,
    shrinkage: float = 1.0,
    never_below: float = 5.0,
) -> RealSets:
    """Count the label sets of the real training images.

    Args:
        labels_NC: 1 where the image shows the class.
        known_NC: false where a label is uncertain or unknown: it counts as absent in sets and not at all in p(c'|c).
            None: all are known.
        classes: C names.
        normal_classes: names that mean that there is no finding, besides "No Finding" and "normal". They are no part of
            a set: "No Finding" beside "Support Devices" is the set of the devices.
        smoothing: mu, pseudo-images per class; 0: real sets only.
        shrinkage: alpha, pseudo-images that draw p(c'|c) towards p(c').
        never_below: images that a pair must be expected to have before its absence counts as impossible.

    Raises:
        InputError: shapes that don't fit, or no image.

    Complexity: O(N C^2) time, N C bytes kept.
    """
    labels = np.asarray(labels_NC)
    known = None if known_NC is None else np.asarray(known_NC, np.bool_)
    if labels.ndim != 2 or not len(labels) or labels.shape[1] != len(classes) or not _fits(known, labels):
        shapes = f"labels of shape {labels.shape}" + ("" if known is None else f" with a mask of shape {known.shape}")
        raise InputError(
            f"{shapes} for {len(classes)} classes", "one row per training image, one column per class, at least one row"
        )
    normal_C = np.array([is_normal(name) or name in normal_classes for name in classes], np.bool_)
    sets_NC = labels > 0 if known is None else (labels > 0) & known
    sets_NC[:, normal_C] = False
    both_CC, of_CC, known_CC = _counted(sets_NC, known)
    n_C, m_C = np.diag(both_CC), np.diag(known_CC)
    expected_CC = np.divide(of_CC * of_CC.T, known_CC, out=np.zeros_like(both_CC), where=known_CC > 0)
    impossible_CC = (both_CC == 0) & (expected_CC >= never_below)
    np.fill_diagonal(impossible_CC, False)
    shares_CC = np.divide(both_CC, of_CC, out=np.zeros_like(both_CC), where=of_CC > 0)
    p_C = np.divide(n_C, m_C, out=np.zeros_like(n_C), where=m_C > 0)
    total_CC = of_CC + shrinkage
    conditional_CC = np.divide(both_CC + shrinkage * p_C, total_CC, out=np.zeros_like(both_CC), where=total_CC > 0)
    conditional_CC[impossible_CC] = 0.0
    np.fill_diagonal(conditional_CC, 1.0)
    conditional_CC[:, normal_C] = 0.0
    total_C = n_C + smoothing
    return RealSets(
        classes=tuple(classes),
        sets_NC=sets_NC,
        rows_of=tuple(np.flatnonzero(column) for column in sets_NC.T),
        normal_C=normal_C,
        counts_C=n_C.astype(np.int64),
        shares_CC=shares_CC,
        conditional_CC=conditional_CC,
        impossible_CC=impossible_CC,
        largest=int(sets_NC.sum(axis=1).max()),
        smoothed_C=np.divide(smoothing, total_C, out=np.zeros_like(total_C), where=total_C > 0),
    )


def _fits(known: NDArray[np.bool_] | None, labels: NDArray[np.generic]) -> bool:
    return known is None or known.shape == labels.shape


def _counted(sets_NC: NDArray[np.bool_], known: NDArray[np.bool_] | None) -> tuple[NDArray[np.float64], ...]:
    """[C, C] each: images with i and j; images with i of which j is known; images of which both are known."""
    classes = sets_NC.shape[1]
    both_CC, of_CC, known_CC = (np.zeros((classes, classes)) for _ in range(3))
    for start in range(0, len(sets_NC), _ROWS):
        y = sets_NC[start : start + _ROWS].astype(np.float64)
        k = np.ones_like(y) if known is None else known[start : start + _ROWS].astype(np.float64)
        both_CC += y.T @ y
        of_CC += y.T @ k
        known_CC += k.T @ k
    return both_CC, of_CC, known_CC
