"""How sure a score is, and whether two systems differ: intervals over patients and a paired randomisation test.

Every score here is a function of sums over reports (a mean: of values and their number; a micro F1: of hits, false
claims and misses), so a resample of patients or a swap of two systems' reports costs one matrix product.

Shape suffixes: N reports, P patients, R resamples or permutations, K parts of a score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raymedlt.errors import InputError
from raymedlt.evaluation.findings import Agreement, precision_recall_f1
from raymedlt.resampling import Interval, Patients, percentile_interval
from raymedlt.seeds import generator

Floats = npt.NDArray[np.float64]
PERMUTATIONS = 10_000
_BLOCK_VALUES = 2**21  # of float64 in one block of resamples (16 MiB)
_EQUAL = 1e-12  # differences that differ by rounding only


@dataclass(frozen=True, eq=False)
class Score:
    """A score of one system over N reports."""

    parts_NK: Floats
    """What is added up over reports."""
    value: Callable[[Floats], Floats]
    """[..., K] sums to [...] values, NaN where undefined."""

    @property
    def estimate(self) -> float:
        """Over all reports."""
        return float(self.value(self.parts_NK.sum(0)))


def mean_score(values_N: npt.ArrayLike) -> Score:
    """The mean of one value per report; NaN values have no part in it."""
    values = np.asarray(values_N, np.float64)
    defined = ~np.isnan(values)
    return Score(np.stack([np.where(defined, values, 0.0), defined.astype(np.float64)], 1), _ratio)


def micro_score(agreement: Agreement, which: int = 2) -> Score:
    """Precision (0), recall (1) or F1 (2) of all findings of all reports taken together."""
    return Score(agreement.counts_N3, lambda sums: precision_recall_f1(sums)[..., which])


def macro_score(agreement: Agreement) -> Score:
    """The mean over findings of each finding's F1; of those that the truth of these reports (or this resample) has.

    A finding that is only ever claimed, never there, costs micro precision alone.
    """
    counts_NG3 = agreement.counts_NG3[:, (agreement.hits_NG | agreement.missed_NG).any(0)]

    def value(sums: Floats) -> Floats:
        counts = sums.reshape(*sums.shape[:-1], -1, 3)
        there = counts[..., 0] + counts[..., 2] > 0
        f1 = np.where(there, precision_recall_f1(counts)[..., 2], 0.0)
        return _ratio(np.stack([f1.sum(-1), there.sum(-1).astype(np.float64)], -1))

    return Score(counts_NG3.reshape(len(counts_NG3), -1), value)


def _ratio(sums_2: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums_2[..., 0] / sums_2[..., 1], np.float64)


def resampled(score: Score, patients: Patients, *, resamples: int, seed: int) -> Floats:
    """The score in each resample of the patients, [R]. O(R P K) multiplications, in blocks of 16 MiB."""
    parts_PK = _by_patient(score.parts_NK, patients)
    values = [np.zeros(0)]
    for numbers in _blocks(resamples, patients.count):
        weights_RP = np.stack([patients.drawn(seed, number) for number in numbers])
        values.append(score.value(weights_RP @ parts_PK))
    return np.concatenate(values)


def interval(score: Score, patients: Patients, *, resamples: int, seed: int) -> Interval:
    """The score with its 95 % interval."""
    return percentile_interval(score.estimate, resampled(score, patients, resamples=resamples, seed=seed))


def difference(first: Score, second: Score, patients: Patients, *, resamples: int, seed: int) -> Interval:
    """How much higher `first` is than `second` on the same reports, resample by resample, with its 95 % interval.

    Raises:
        InputError: the two are of different numbers of reports.
    """
    _same_reports(first, second)
    values = [resampled(each, patients, resamples=resamples, seed=seed) for each in (first, second)]
    return percentile_interval(first.estimate - second.estimate, values[0] - values[1])


def randomisation_test(
    first: Score, second: Score, patients: Patients, *, permutations: int = PERMUTATIONS, seed: int
) -> float:
    """Two-sided p of "both systems are the same" (approximate randomisation: Noreen 1989; Riezler and Maxwell 2005).

    In each permutation a coin decides for every patient whether the two systems' reports change places. p is (1 + the
    permutations with a difference as large as the observed one) / (1 + all of them): never 0.

    Raises:
        InputError: the two are of different numbers of reports.
    """
    _same_reports(first, second)
    observed = abs(first.estimate - second.estimate)
    a_PK, b_PK = _by_patient(first.parts_NK, patients), _by_patient(second.parts_NK, patients)
    sum_a, sum_b, change_PK = a_PK.sum(0), b_PK.sum(0), b_PK - a_PK
    as_large = 0
    for numbers in _blocks(permutations, patients.count):
        swapped_RP = np.stack(
            [generator(seed, "randomisation", number).random(patients.count) < 0.5 for number in numbers]
        )
        moved_RK = swapped_RP.astype(np.float64) @ change_PK
        differences = np.abs(first.value(sum_a + moved_RK) - second.value(sum_b - moved_RK))
        as_large += int((differences >= observed - _EQUAL).sum())
    return (1 + as_large) / (1 + permutations)


def _by_patient(parts_NK: Floats, patients: Patients) -> Floats:
    if len(parts_NK) != len(patients.number_N):
        raise InputError(f"{len(patients.number_N)} patient ids of {len(parts_NK)} reports", "one for each")
    parts_PK = np.zeros((patients.count, parts_NK.shape[1]))
    np.add.at(parts_PK, patients.number_N, parts_NK)
    return parts_PK


def _blocks(count: int, width: int) -> list[range]:
    step = max(1, _BLOCK_VALUES // max(width, 1))
    return [range(start, min(start + step, count)) for start in range(0, count if width else 0, step)]


def _same_reports(first: Score, second: Score) -> None:
    if first.parts_NK.shape != second.parts_NK.shape:
        raise InputError(
            f"two systems with scores of shape {first.parts_NK.shape} and {second.parts_NK.shape}",
            "the same score of the same reports, in one order",
            "score both systems against the same references",
        )
