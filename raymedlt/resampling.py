"""A bootstrap over patients: which patients are in a resample, and the interval of the values that come of it.

What belongs to one patient is alike, so patients are drawn, with replacement, and come with all that is theirs (cluster
bootstrap: Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8). Intervals are percentile
intervals (Efron 1981). Each resample's draws have their own seed, over the sorted patient ids: they depend neither on
the order of the rows nor on how many resamples are scored at once.

Shape suffixes: N rows, P patients, R resamples, C columns that are averaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.seeds import generator

LEVEL = 0.95

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A score or difference with its 95 % interval.

    estimate: from all patients. low, high: NaN without resamples. undefined: resamples left out, since the score was
    not defined in them.
    """

    estimate: float
    low: float
    high: float
    undefined: int


@dataclass(frozen=True, eq=False)
class Patients:
    """Whose the rows are."""

    number_N: npt.NDArray[np.int64]
    """Each row's patient, by place among the sorted ids."""
    count: int
    digest: str
    """Of the ids: equal digests, seeds and numbers of resamples mean the same resamples."""

    @classmethod
    def of(cls, patient_ids: Sequence[str]) -> Patients:
        """From the id of each row, in any order."""
        names, number_N = np.unique(np.asarray(patient_ids, dtype=object), return_inverse=True)
        digest = hashlib.sha256("\0".join(names.tolist()).encode("utf-8", "surrogatepass")).hexdigest()
        return cls(number_N.astype(np.int64), len(names), digest)

    def drawn(self, seed: int, number: int) -> Floats:
        """How often each patient is in the resample `number`, [P]."""
        drawn = generator(seed, "bootstrap", number).integers(self.count, size=self.count)
        return np.bincount(drawn, minlength=self.count).astype(np.float64)


def means(values_RC: Floats) -> Floats:
    """Mean of each resample over the columns that it defines (that aren't NaN), [R]; NaN where it defines none."""
    defined_RC = ~np.isnan(values_RC)
    counts_R = defined_RC.sum(axis=1)
    sums_R = np.where(defined_RC, values_RC, 0.0).sum(axis=1)
    means_R: Floats = np.divide(sums_R, counts_R, out=np.full(len(values_RC), np.nan), where=counts_R > 0)
    return means_R


def percentile_interval(estimate: float, values_R: Floats) -> Interval:
    """The interval of the resamples' values; NaN values are left out and counted."""
    defined = values_R[~np.isnan(values_R)]
    if not len(defined):
        return Interval(estimate, float("nan"), float("nan"), len(values_R))
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(estimate, low, high, len(values_R) - len(defined))
