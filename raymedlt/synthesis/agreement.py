"""Does an image show what was planned, in the eyes of a classifier trained on real images only? Thresholds per class.

Three thresholds per class, tuned on real validation images:

* shown: what the plan's target class must reach. The lowest threshold at which, among images of which a share `prior`
  really shows the class, those above it show it with at least the wanted precision. The share of true positives counts
  for itself, since a class that one real image in a thousand shows is planned for every one of the images in question.
  Once images are drawn, the share is estimated from them (`drawn_prior`): a generator that seldom draws what it should
  meets a higher threshold.
* companion: what the other planned classes must reach; looser, so that few true images are lost for a faint companion.
* stray: what the classes that were not planned must stay below; chosen for all classes together, so that only the
  wanted share of real images would be refused for showing more than their labels say.

N validation images, C classes, B images to judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from raymedlt.errors import InputError

Floats = npt.NDArray[np.float64]

LEAST_RECALL = 0.2
"""Share of a class's real images that `shown` must let through."""

NOT_SHOWN, STRAY, UNKNOWN, UNTUNED, UNPLANNED = (
    "not shown", "shows more", "class unknown to the gate", "too few validation images of", "no planned class",
)  # fmt: skip
"""How reasons begin; but for the last a class follows after ": "."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What thresholds are tuned on: the classifier's probabilities of real validation images, and their labels."""

    probabilities_NC: Floats
    labels_NC: npt.NDArray[np.bool_]
    known_NC: npt.NDArray[np.bool_]

    def of(self, number: int) -> tuple[Floats, Floats]:
        """Sorted probabilities of a class: of the images that show it, and of those that don't."""
        here, shows = self.probabilities_NC[:, number], self.labels_NC[:, number]
        known = self.known_NC[:, number]
        return np.sort(here[known & shows]), np.sort(here[known & ~shows])


@dataclass(frozen=True, eq=False)
class Agreement:
    """The thresholds. Make them with `tune`."""

    classes: tuple[str, ...]
    shown_C: Floats
    """NaN where validation has too few images of the class: what was planned with it is refused."""
    companion_C: Floats
    """NaN there too."""
    stray_C: Floats
    """Above 1 where nothing would be refused."""
    precision_C: Floats
    """What `shown_C` reaches on validation at the prior; below the wanted one where no threshold reaches that with a
    recall of at least LEAST_RECALL."""
    recall_C: Floats
    """Share of the real images of the class at or above `shown_C`."""

    def reasons(
        self, probabilities_BC: npt.NDArray[Any], label_sets: Sequence[Sequence[str]], targets: Sequence[str | None]
    ) -> list[list[str]]:
        """Why each image disagrees with its plan; an empty list for one that agrees.

        Args:
            label_sets: what was planned for each image.
            targets: the class that each image is for, held to the strict threshold; None: all its classes are.

        Raises:
            InputError: not one label set and one target per image.
        """
        if not len(probabilities_BC) == len(label_sets) == len(targets):
            raise InputError(
                f"{len(label_sets)} label sets and {len(targets)} targets for {len(probabilities_BC)} images",
                "one of each per image",
            )
        place = {name: number for number, name in enumerate(self.classes)}
        return [
            self._disagrees(np.asarray(row, np.float64), list(dict.fromkeys(planned)), target, place)
            for row, planned, target in zip(probabilities_BC, label_sets, targets, strict=True)
        ]

    def margins(self, probabilities_BC: npt.NDArray[Any], label_sets: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """How far the least probable planned class is above `shown`, and the worst unplanned one above `stray`.

        Both float64 [B]; NaN where there is no such class.
        """
        planned_BC = np.array([[name in labels for name in self.classes] for labels in label_sets], bool)
        planned_BC = planned_BC.reshape(len(label_sets), len(self.classes))
        above_BC = np.where(planned_BC, probabilities_BC - self.shown_C, np.nan)
        stray_BC = np.where(planned_BC, np.nan, probabilities_BC - self.stray_C)
        return _quiet(np.fmin, above_BC), _quiet(np.fmax, stray_BC)

    def _disagrees(self, row_C: Floats, planned: list[str], target: str | None, place: dict[str, int]) -> list[str]:
        found = [UNPLANNED] if not planned else []
        if target is not None and target not in planned:
            planned = [*planned, target]
        for name in planned:
            number = place.get(name)
            if number is None:
                found.append(f"{UNKNOWN}: {name}")
                continue
            least = (self.shown_C if target is None or name == target else self.companion_C)[number]
            if math.isnan(least):
                found.append(f"{UNTUNED}: {name}")
            elif not row_C[number] >= least:  # so that NaN fails
                found.append(f"{NOT_SHOWN}: {name}")
        for number, name in enumerate(self.classes):
            if name not in planned and not row_C[number] <= self.stray_C[number]:
                found.append(f"{STRAY}: {name}")
        return found

    def below(self, targets: Sequence[str], probabilities_B: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which images' own class is below `shown`, bool [B]; False where either isn't known (see `reasons`)."""
        place = {name: number for number, name in enumerate(self.classes)}
        limits = np.array([self.shown_C[place[name]] if name in place else math.nan for name in targets], np.float64)
        found: npt.NDArray[np.bool_] = np.asarray(probabilities_B, np.float64) < limits
        return found

    def stricter(
        self, evidence: Evidence, drawn: Mapping[str, npt.ArrayLike], *, precision: float, prior: float
    ) -> tuple[Agreement, dict[str, float]]:
        """The thresholds for images that a generator has drawn, and the share of them that is taken to show each class.

        Args:
            evidence: what these thresholds were tuned on.
            drawn: class -> probabilities of that class of all images that were drawn for it.
            precision: as in `tune`.
            prior: the share at most.

        Returns:
            An agreement whose `shown` is nowhere lower, and class -> prior.
        """
        shown, reached, recall = self.shown_C.copy(), self.precision_C.copy(), self.recall_C.copy()
        priors: dict[str, float] = {}
        for number, name in enumerate(self.classes):
            if name not in drawn or math.isnan(shown[number]):
                continue
            own, others = evidence.of(number)
            priors[name] = min(prior, drawn_prior(drawn[name], own, others))
            shown[number], reached[number], recall[number] = _threshold(own, others, precision, priors[name])
        return replace(self, shown_C=shown, precision_C=reached, recall_C=recall), priors

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; NaN is null."""
        columns = {
            name: [None if math.isnan(value) else value for value in getattr(self, f"{name}_C").tolist()]
            for name in ("shown", "companion", "stray", "precision", "recall")
        }
        return {"classes": list(self.classes), **columns}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        columns = {f"{name}_C": np.array(value[name], np.float64) for name in value if name != "classes"}
        return cls(classes=tuple(value["classes"]), **columns)


def tune(
    probabilities_NC: npt.ArrayLike,
    labels_NC: npt.ArrayLike,
    known_NC: npt.ArrayLike,
    classes: Sequence[str],
    *,
    precision: float,
    prior: float,
    missed: float,
    stray: float,
    least: int,
) -> Agreement:
    """Thresholds from the classifier's probabilities of real validation images.

    Args:
        probabilities_NC: of images that the classifier was not trained on.
        labels_NC, known_NC: 1 where the class is shown; False where the label says nothing.
        precision: wanted share of images that show the class among those at or above its threshold.
        prior: share of the images planned with a class that are expected to show it before the gate.
        missed: share of the real images of a class that may lie below its `companion` threshold.
        stray: share of the real images that may be refused for a class that their labels don't name.
        least: validation images that a class needs; with fewer it has no `shown` threshold.

    Raises:
        InputError: tables of different shapes.

    O(C N log N).
    """
    probabilities, labels = np.asarray(probabilities_NC, np.float64), np.asarray(labels_NC) > 0
    known = np.asarray(known_NC, bool)
    if not probabilities.shape == labels.shape == known.shape == (len(probabilities), len(classes)):
        raise InputError(
            f"probabilities {probabilities.shape}, labels {labels.shape} and known {known.shape} of {len(classes)} "
            "classes",
            "three tables with one row per validation image and one column per class",
        )
    columns, evidence = [], Evidence(probabilities, labels, known)
    for number in range(len(classes)):
        own, others = evidence.of(number)
        if len(own) < least or not len(others):
            columns.append((math.nan, math.nan, math.nan, math.nan))
            continue
        shown, reached, recall = _threshold(own, others, precision, prior)
        companion = own[math.floor(missed * len(own))]
        columns.append((shown, min(companion, shown), reached, recall))
    shown_C, companion_C, precision_C, recall_C = np.array(columns, np.float64).reshape(-1, 4).T
    stray_C = _stray(probabilities, labels, known, stray)
    return Agreement(tuple(classes), shown_C, companion_C, stray_C, precision_C, recall_C)


def drawn_prior(drawn: npt.ArrayLike, own: npt.ArrayLike, others: npt.ArrayLike) -> float:
    """Share of the drawn images that show a class, from a classifier's probabilities: the adjusted count.

    With true and false positive rates t and f on real images, a share p of images that show the class gives
    p t + (1 - p) f images above the threshold; solved for p. The threshold is the one with the largest t - f
    (Forman, Data Min Knowl Disc 2008, section 3, method Max). At least that of one image more than were drawn: never 0.

    Args:
        drawn: probabilities of the class, of images drawn for it.
        own, others: of real images that show the class, and that don't; sorted.
    """
    drawn, own, others = (np.asarray(each, np.float64) for each in (drawn, own, others))
    candidates = np.unique(np.concatenate([own, others]))
    true = 1 - np.searchsorted(own, candidates) / len(own)
    false = 1 - np.searchsorted(others, candidates) / len(others)
    best = int(np.argmax(true - false))
    least = 1 / (len(drawn) + 1)
    if not len(drawn) or true[best] <= false[best]:
        return least
    above = float((drawn >= candidates[best]).mean())
    return float(np.clip((above - false[best]) / (true[best] - false[best]), least, 1 - least))


def _threshold(own: Floats, others: Floats, precision: float, prior: float) -> tuple[float, float, float]:
    """The lowest threshold with the wanted precision at the prior, else the most precise; precision; recall.

    Only thresholds that a fifth of the class's images reach: above, a weak classifier's precision rests on chance.

    Shares are (hits + 1) / (images + 2) for images without the class and hits / (images + 1) for those with it: both
    err on the careful side, the more so the fewer images there are.
    """
    candidates = np.unique(np.concatenate([own, others]))
    candidates = candidates[candidates <= own[math.floor((1 - LEAST_RECALL) * len(own))]]
    kept = len(own) - np.searchsorted(own, candidates)
    false = (len(others) - np.searchsorted(others, candidates) + 1) / (len(others) + 2)
    true = kept / (len(own) + 1)
    reached = prior * true / (prior * true + (1 - prior) * false)
    enough = np.flatnonzero(reached >= precision)
    best = int(enough[0]) if len(enough) else int(np.argmax(reached))
    return float(candidates[best]), float(reached[best]), float(kept[best] / len(own))


def _stray(probabilities: Floats, labels: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_], share: float) -> Floats:
    """Per class a limit for images without it; all of them together are passed by `share` of the real images.

    Every class gives up the same share of its own negatives: the limit at that share is a quantile of the class, and
    the share is found from the smallest tail probability that each image has over its negative classes.
    """
    tails = np.full(probabilities.shape, np.inf)
    negatives = []
    for number in range(probabilities.shape[1]):
        rows = np.flatnonzero(known[:, number] & ~labels[:, number])
        own = np.sort(probabilities[rows, number])
        negatives.append(own)
        tails[rows, number] = (len(own) - np.searchsorted(own, probabilities[rows, number])) / max(1, len(own))
    smallest = np.sort(tails.min(axis=1, initial=np.inf))
    allowed = math.floor(share * len(smallest))
    level = smallest[allowed] if allowed < len(smallest) else np.inf  # `allowed` images lie strictly below it
    limits = []
    for own in negatives:
        over = math.ceil(min(level, 1.0) * len(own) - 1e-9) - 1  # so many may lie above the limit
        limits.append(own[len(own) - 1 - over] if len(own) and over >= 0 else 2.0)
    return np.array(limits, np.float64)


def _quiet(best: np.ufunc, table_BC: Floats) -> Floats:
    """fmin or fmax along the classes: NaN where there is nothing but NaN, without a warning."""
    found: Floats = best.reduce(table_BC, axis=1, initial=np.nan)
    return found
