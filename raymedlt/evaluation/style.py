"""A difference between systems at equal style.

Enriched reports are longer and say more that is normal, and length alone moves BLEU or ROUGE. As in LMSYS's style
control (Li et al., 2024), style enters a regression beside the system: of every report i and system s

    y_is = a_i + b_s + c . z_is + e_is

with y the metric, a_i what is particular to the report (its difficulty), b_s the system (0 for the first), z_is the
standardised style of what s wrote. b is the difference that style does not explain. Least squares; intervals by a
bootstrap over patients.

Style that a system always has can't be told from the system: `separable` is the share of the system's variance that
style leaves (1 - R squared of the system on the style, reports' means taken off). Near 0, b says nothing.

Shape suffixes: N reports, S systems, F style features, P patients, R resamples, K coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from raymedlt.errors import InputError
from raymedlt.reports.assertion import NORMAL, judge
from raymedlt.reports.sentences import split_sentences
from raymedlt.resampling import Interval, Patients, percentile_interval

Floats = npt.NDArray[np.float64]
FEATURES = ("words", "sentences", "normal_share")
"""Words, sentences, and the share of sentences that only deny or state normality (0 of no sentence)."""
_REMEMBERED = 200_000


@dataclass(frozen=True, eq=False)
class Controlled:
    """The regression of one metric."""

    systems: dict[str, Interval]
    """b of each system but the first: how much higher it is than the first at equal style."""
    plain: dict[str, float]
    """The same without style in the regression: the mean paired difference."""
    features: dict[str, float]
    """c: what one standard deviation more of the feature goes with."""
    separable: dict[str, float]
    """Of each system but the first, see the module."""


def style_of(texts: Sequence[str], language: str = "en") -> Floats:
    """FEATURES of each text, [N, 3]."""
    rows = []
    for text in texts:
        sentences = split_sentences(text)
        normal = sum(_is_normal(sentence, language) for sentence in sentences)
        rows.append((len(text.split()), len(sentences), normal / max(len(sentences), 1)))
    return np.asarray(rows, np.float64).reshape(len(rows), len(FEATURES))


@lru_cache(_REMEMBERED)
def _is_normal(sentence: str, language: str) -> bool:
    return judge(sentence, language).sign == NORMAL


def style_controlled(
    values: Mapping[str, npt.ArrayLike],
    styles: Mapping[str, Floats],
    patients: Patients,
    *,
    resamples: int,
    seed: int,
) -> Controlled:
    """Regress a metric on system and style.

    Args:
        values: system -> metric of its N reports [N], the system to compare with first. NaN is not allowed.
        styles: system -> `style_of` the same reports [N, F].
        patients: of the N reports.

    Raises:
        InputError: fewer than two systems, or different numbers of reports.

    Complexity: O(N S K^2 + R (P K^2 + K^3)).
    """
    names = list(values)
    y_SN = [np.asarray(values[name], np.float64) for name in names]
    lengths = {len(each) for each in y_SN} | {len(styles[name]) for name in names} | {len(patients.number_N)}
    if len(names) < 2 or len(lengths) > 1:
        raise InputError(
            f"{len(names)} systems with {sorted(lengths)} reports", "two or more systems and the same reports of each"
        )
    style_SNF = np.stack([np.asarray(styles[name], np.float64) for name in names])
    spread_F = style_SNF.std((0, 1))
    varies = spread_F > 0
    style_SNF = (style_SNF - style_SNF.mean((0, 1)))[..., varies] / spread_F[varies]
    system_SNK = np.repeat(np.eye(len(names))[:, None, 1:], len(y_SN[0]), 1)
    x_SNK = np.concatenate([system_SNK, style_SNF], 2)
    y = _within(np.stack(y_SN)[..., None])
    x_SNK = _within(x_SNK)
    grams = _by_patient(np.einsum("snk,snl->nkl", x_SNK, x_SNK), patients)
    sides = _by_patient(np.einsum("snk,sn->nk", x_SNK, y[..., 0]), patients)
    own = len(names) - 1
    estimate_K = _solve(grams.sum(0)[None], sides.sum(0)[None])[0]
    weights_RP = np.array([patients.drawn(seed, number) for number in range(resamples)]).reshape(-1, patients.count)
    drawn_RK = _solve(np.tensordot(weights_RP, grams, 1), weights_RP @ sides)
    used = [name for name, kept in zip(FEATURES, varies.tolist(), strict=True) if kept]
    return Controlled(
        {name: percentile_interval(float(estimate_K[k]), drawn_RK[:, k]) for k, name in enumerate(names[1:])},
        {name: float(np.mean(y_SN[k + 1] - y_SN[0])) for k, name in enumerate(names[1:])},
        {name: float(estimate_K[own + number]) for number, name in enumerate(used)},
        {name: _left(grams.sum(0), k, own) for k, name in enumerate(names[1:])},
    )


def _within(x_SNK: Floats) -> Floats:
    """Without the reports' means: what is the same for all systems on a report falls out (a_i)."""
    centred: Floats = x_SNK - x_SNK.mean(0)
    return centred


def _by_patient(rows: Floats, patients: Patients) -> Floats:
    summed = np.zeros((patients.count, *rows.shape[1:]))
    np.add.at(summed, patients.number_N, rows)
    return summed


def _solve(grams_RKK: Floats, sides_RK: Floats) -> Floats:
    """Least squares from the normal equations; of coefficients that can't be told apart the shortest vector."""
    solved: Floats = np.einsum("rkl,rl->rk", np.linalg.pinv(grams_RKK, rcond=1e-10, hermitian=True), sides_RK)
    return solved


def _left(gram_KK: Floats, system: int, own: int) -> float:
    """1 - R squared of one system's column on the style columns."""
    style_FF, cross_F = gram_KK[own:, own:], gram_KK[own:, system]
    explained = float(cross_F @ np.linalg.pinv(style_FF, rcond=1e-10, hermitian=True) @ cross_F)
    return max(0.0, 1 - explained / float(gram_KK[system, system]))
