"""Wilson's 95 % score interval of a share (Wilson, J Am Stat Assoc 1927), for numbers and for arrays."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point

Floats = npt.NDArray[np.float64]
_Number = TypeVar("_Number", float, Floats)


def _score_interval(share: _Number, trials: _Number) -> tuple[_Number, _Number]:
    centre = share + Z95**2 / (2 * trials)
    spread = Z95 * (share * (1 - share) / trials + Z95**2 / (4 * trials**2)) ** 0.5
    scale = 1 + Z95**2 / trials
    return (centre - spread) / scale, (centre + spread) / scale


def wilson(part: float, whole: float) -> tuple[float, float]:
    """Lower and upper end for `part` of `whole`; (0, 1) of nothing. `whole` may be an effective number of trials."""
    if whole == 0:
        return 0.0, 1.0
    low, high = _score_interval(part / whole, float(whole))
    return max(0.0, low), min(1.0, high)


def wilson_lower(parts: Floats, wholes: Floats) -> Floats:
    """Lower ends, elementwise; float64 of the arguments' shape. No whole may be 0."""
    return _score_interval(parts / wholes, wholes)[0]


class Share(NamedTuple):
    """So many of so many."""

    part: int
    whole: int

    @property
    def value(self) -> float | None:
        """None of nothing."""
        return self.part / self.whole if self.whole else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; (0, 1) of nothing."""
        return wilson(self.part, self.whole)

    def __str__(self) -> str:
        if self.value is None:
            return "not defined"
        low, high = self.interval
        digits = 1 if self.whole >= 200 else 0
        return f"{100 * self.value:.{digits}f}\u00a0% ({100 * low:.{digits}f} to {100 * high:.{digits}f})"
