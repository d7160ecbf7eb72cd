"""How much coverage does better evidence cost, and how much contradiction does it save?

Every addition is vouched for by clusters u of its report. Four measures of that evidence, each the weakest over the
vouching clusters but the first, which is their mean:
* opposite: the share of u's training studies that state the opposite of the addition (smaller is stronger);
* lift_lower, confidence, support: as in the table `additions` (larger is stronger).
A curve asks for stronger and stronger evidence, and says what share of the reports keeps an addition and what share of
the kept additions contradicts the reports' labels (`reports.labels.contradicted`). Labels are read here and in other
audits only; what is added never depends on them.

`opposite` orders best. OpenI, policy "safe", MeSH codes, area under the ROC curve (1: every contradicting addition has
weaker evidence than every other; 0.5: chance), with the guard off so that there is something to order (1,358 of 8,146
checkable additions contradict): opposite .82, support .52, lift_lower .51, confidence .42. A normal statement that most
reports make is confident beside any finding; only the studies that say the contrary tell a finding that goes with it
from one that doesn't. What the guard leaves (9 of 3,614) is too little to order, by any of them.

Shape suffixes: A additions, R reports.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.enrichment import guard
from raymedlt.intervals import wilson
from raymedlt.reports.labels import Denied, Labelled, checkable, contradicted, findings_of, looked_at
from raymedlt.reports.sentences import sentence_key, split_sentences

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MEASURES = ("opposite", "lift_lower", "confidence", "support")


class Evidence(NamedTuple):
    """Evidence of additions, all [A]. report: number of the addition's report, from 0 on."""

    report: npt.NDArray[np.int64]
    opposite: Floats
    lift_lower: Floats
    confidence: Floats
    support: Floats

    def strength(self, measure: str) -> Floats:
        """One of `MEASURES` with the sign that makes more better."""
        values: Floats = getattr(self, measure)
        return -values if measure == "opposite" else values


class Verdicts(NamedTuple):
    """Additions against labels, all [A]. checkable: some label of the scheme could contradict it, and its report was
    labelled. wrong: a label does."""

    checkable: Flags
    wrong: Flags


class Point(NamedTuple):
    """What is left where the evidence must be at least so strong."""

    limit: float  # in the measure's own unit: at most this share of opposites, at least this lift ...
    coverage: float  # share of the reports that keep an addition
    additions: int  # kept
    checked: int  # of these, checkable ones
    rate: float  # share of the checked ones that are wrong, or its estimate
    low: float  # Wilson's 95 % interval of a measured rate; NaN for an estimate
    high: float


def evidence_of(additions: pa.Table, edges: pa.Table) -> Evidence:
    """Gather the evidence of additions (schema.ADDITIONS, one variant) from the arcs (schema.EDGES).

    A witness vouches for an addition if it has an arc to it and wasn't itself added to the report. An addition that
    nobody vouches for (a control) has the weakest evidence: opposite 1, lift, confidence and support as the table says.
    O(edges + additions).
    """
    against: dict[tuple[int, int], float] = {}
    columns = (edges[name].to_pylist() for name in ("source", "target", "support", "confidence", "opposite"))
    for source, target, support, confidence, opposite in zip(*columns, strict=True):
        against[source, target] = min(1.0, opposite * confidence / support)  # support / confidence: studies with source
    reports, added = additions["report_id"].to_pylist(), additions["cluster_id"].to_pylist()
    own: dict[str, set[int]] = collections.defaultdict(set)
    for report, c in zip(reports, added, strict=True):
        own[report].add(c)
    shares = []
    for report, c, witness in zip(reports, added, additions["witness"].to_pylist(), strict=True):
        found = [against[u, c] for u in witness if u not in own[report] and (u, c) in against]
        shares.append(sum(found) / len(found) if found else 1.0)
    number = {report: place for place, report in enumerate(own)}
    return Evidence(
        np.array([number[report] for report in reports], np.int64),
        np.array(shares, np.float64),
        *(_floats(additions[name]) for name in ("lift_lower", "confidence_min", "support")),
    )


def against_labels(
    additions: pa.Table, labels: Mapping[str, Sequence[str]], scheme: str, languages: Mapping[str, str]
) -> Verdicts:
    """Judge additions (schema.ADDITIONS) by the labels of their reports.

    Args:
        labels, languages: of each report of `additions`.
        scheme: one of `reports.labels.SCHEMES`.

    O(additions x denials x labels), each distinct sentence read once.
    """

    @cache
    def named(report: str) -> frozenset[Labelled] | None:
        return findings_of(labels[report], scheme) if looked_at(labels[report], scheme) else None

    can, wrong = [], []
    for report, key in zip(additions["report_id"].to_pylist(), additions["sentence_key"].to_pylist(), strict=True):
        denied, found = denials(key, languages[report]), named(report)
        can.append(found is not None and any(checkable(each.finding, scheme) for each in denied))
        wrong.append(found is not None and bool(contradicted(denied, found)))
    return Verdicts(np.array(can, bool), np.array(wrong, bool))


def human_floor(reports: pa.Table, scheme: str) -> tuple[int, int]:
    """How many of the reports' own normal findings sentences their labels contradict, and how many are checkable.

    Args:
        reports: columns findings, labels, language.

    What is left after this comparison can't be blamed on the labels alone. O(sentences).
    """
    wrong = checked = 0
    columns = (reports[name].to_pylist() for name in ("findings", "labels", "language"))
    for findings, labels, language in zip(*columns, strict=True):
        if not looked_at(labels, scheme):
            continue
        named = findings_of(labels, scheme)
        for sentence in split_sentences(findings):
            key = sentence_key(sentence)
            if guard.judged(key, language)[0].sign == "normal":
                denied = denials(key, language)
                checked += any(checkable(each.finding, scheme) for each in denied)
                wrong += bool(contradicted(denied, named))
    return wrong, checked


def denials(key: str, language: str) -> list[Denied]:
    """What a sentence denies, each once."""
    mentions = guard.judged(key, language)[0].mentions
    return sorted({Denied(each.finding, each.side) for each in mentions if each.assertion == "absent"})


def curve(
    evidence: Evidence, reports: int, verdicts: Verdicts | None, measure: str = "opposite", points: int = 40
) -> list[Point]:
    """Coverage against contradiction, from the strongest evidence to everything that was added (the last point).

    Args:
        reports: reports that could have got an addition; coverage is a share of these.
        verdicts: None: an estimate instead, the mean of `opposite` over the kept additions. It is what adding without a
            guard would get wrong at worst: the guard refuses where the report itself states the opposite, and the
            opposite is taken widely (any shadow in the lung speaks against clear lungs). With the guard off it was 23 %
            where the labels found 17 % (OpenI); of what the guard let through they contradicted 0.25 %.
        points: at most so many, at equal steps of coverage; fewer where evidence is tied.

    Returns:
        Points in rising order of coverage; none without additions.
    """
    if not len(evidence.report) or not reports:
        return []
    strength_A = evidence.strength(measure)
    best_R = np.full(int(evidence.report.max()) + 1, -np.inf)
    np.maximum.at(best_R, evidence.report, strength_A)
    ranked = np.sort(best_R)[::-1]
    steps = np.unique(np.linspace(0, len(ranked), points + 1).round().astype(int)[1:])
    limits = np.unique([*ranked[steps[:-1] - 1], strength_A.min()])[::-1]
    return [_point(evidence, strength_A >= limit, limit, best_R, reports, verdicts, measure) for limit in limits]


def _point(
    evidence: Evidence,
    kept_A: Flags,
    limit: float,
    best_R: Floats,
    reports: int,
    verdicts: Verdicts | None,
    measure: str,
) -> Point:
    coverage, kept = float((best_R >= limit).sum() / reports), int(kept_A.sum())
    shown = abs(float(limit)) if measure == "opposite" else float(limit)
    if verdicts is None:
        return Point(shown, coverage, kept, kept, float(evidence.opposite[kept_A].mean()), np.nan, np.nan)
    checked, wrong = int((kept_A & verdicts.checkable).sum()), int((kept_A & verdicts.wrong).sum())
    rate = wrong / checked if checked else np.nan
    return Point(shown, coverage, kept, checked, rate, *wilson(wrong, checked))


def _floats(column: pa.ChunkedArray) -> Floats:
    values: Floats = pc.cast(column, pa.float64()).to_numpy()
    return values
