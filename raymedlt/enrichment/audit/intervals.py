"""Shares with their intervals, and how well two readers agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raymedlt.intervals import Z95, wilson


@dataclass(frozen=True, slots=True)
class Share:
    """part of whole, with Wilson's 95 % score interval (Wilson 1927)."""

    part: int
    whole: int

    @property
    def value(self) -> float:
        """part / whole; NaN of nothing."""
        return self.part / self.whole if self.whole else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end; (0, 1) of nothing."""
        return wilson(self.part, self.whole)

    def __str__(self) -> str:
        """ "96.1 % (95.2 to 96.9)", "-" of nothing."""
        return shown(self.value, *self.interval) if self.whole else "-"

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded to five digits; the value of nothing is null."""
        low, high = self.interval
        value = round(self.value, 5) if self.whole else None
        return {"part": self.part, "whole": self.whole, "value": value, "low": round(low, 5), "high": round(high, 5)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Share:
        """The inverse of `to_json`."""
        return cls(int(value["part"]), int(value["whole"]))


def shown(value: float, low: float, high: float) -> str:
    """A share and its interval in per cent; more digits near 0 and 1."""
    digits = 2 if high < 0.02 or low > 0.98 else 1
    return f"{100 * value:.{digits}f} % ({100 * low:.{digits}f} to {100 * high:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of a whole made of strata that were sampled at different rates."""

    value: float
    low: float
    high: float
    sampled: int

    def __str__(self) -> str:
        return shown(self.value, self.low, self.high) if self.sampled else "-"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        if not self.sampled:
            return {"value": None, "low": 0.0, "high": 1.0, "sampled": 0}
        return {
            "value": round(self.value, 5),
            "low": round(self.low, 5),
            "high": round(self.high, 5),
            "sampled": self.sampled,
        }


def stratified(strata: Sequence[tuple[int, Share]]) -> Estimate:
    """Share of the whole from (size of the stratum, share in its sample); strata without a sample are left out.

    Value: sum of w_h p_h, w_h the stratum's part of the whole. Interval: Wilson's, at Kish's effective sample size
    n = 1 / sum of w_h^2 / n_h, which holds up where a share is 0 or 1 in every stratum.
    """
    used = [(size, share) for size, share in strata if size and share.whole]
    total = sum(size for size, _ in used)
    if not total:
        return Estimate(math.nan, 0.0, 1.0, 0)
    value = sum(size / total * share.value for size, share in used)
    effective = 1 / sum((size / total) ** 2 / share.whole for size, share in used)
    low, high = wilson(min(max(value, 0.0), 1.0) * effective, effective)
    return Estimate(value, low, high, sum(share.whole for _, share in used))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two readers agree on `pairs` items that both judged. kappa is NaN where chance alone gives agreement."""

    pairs: int
    equal: Share
    kappa: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; null where there is no number."""
        numbers = {"kappa": self.kappa, "low": self.low, "high": self.high}
        rounded = {name: None if math.isnan(value) else round(value, 4) for name, value in numbers.items()}
        return {"pairs": self.pairs, "equal": self.equal.to_json(), **rounded}


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Cohen's kappa of two readers' words for the same items, with its large-sample 95 % interval.

    kappa = (p_o - p_e) / (1 - p_e); standard error of Fleiss, Cohen and Everitt (Psychol Bull 1969, eq. 13), which is
    that of a kappa other than zero.
    """
    n = len(first)
    pairs = Counter(zip(first, second, strict=True))
    equal = Share(sum(count for (a, b), count in pairs.items() if a == b), n)
    words = sorted({*first, *second})
    row = {word: sum(count for (a, _), count in pairs.items() if a == word) / n for word in words}
    column = {word: sum(count for (_, b), count in pairs.items() if b == word) / n for word in words}
    chance = sum(row[word] * column[word] for word in words)
    if not n or chance == 1:
        return Agreement(n, equal, math.nan, math.nan, math.nan)
    observed = equal.value
    kappa = (observed - chance) / (1 - chance)
    diagonal = sum(
        pairs[word, word] / n * ((1 - chance) - (row[word] + column[word]) * (1 - observed)) ** 2 for word in words
    )
    # eq. 13: p_ij with the marginals crossed
    crossed = sum(count / n * (column[a] + row[b]) ** 2 for (a, b), count in pairs.items() if a != b)
    variance = diagonal + (1 - observed) ** 2 * crossed - (observed * chance - 2 * chance + observed) ** 2
    error = math.sqrt(max(variance, 0.0) / n) / (1 - chance) ** 2
    return Agreement(n, equal, kappa, max(-1.0, kappa - Z95 * error), min(1.0, kappa + Z95 * error))
