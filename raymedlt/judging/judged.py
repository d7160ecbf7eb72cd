"""What every judge finds, and the blocks of the page that they share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raymedlt.resampling import Interval
from raymedlt.runreport.figures import axis, label, upright
from raymedlt.runreport.forest import dots, forest
from raymedlt.runreport.page import Column, Figure, KeyFigure, Paragraph, Section, Table
from raymedlt.schema import SCORES

UNDEFINED = Interval(math.nan, math.nan, math.nan, 0)
DIFFERENCES = (
    "Differences are this run minus the other one, with 95 % intervals over the same resamples of patients; p: paired"
    " randomisation test, in which each patient's results change places by a coin. Many are looked at here: one in"
    " twenty is below .05 where nothing differs."
)
OF_MODELS = (
    f"{DIFFERENCES} Compared are two models as they are: how far another seed of its training would have moved either"
    " is not in the intervals, and may be as much."
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A score of the run, of the other one, and their difference."""

    name: str
    """Key in metrics.json and in the table."""
    title: str
    """On the page."""
    part: str = ""
    """A class, a finding, a group of classes; "" for all."""
    run: Interval
    against: Interval | None = None
    difference: Interval | None = None
    p: float | None = None
    count: int = 0
    """Positives, reports or images behind it."""
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A judge's verdict."""

    title: str
    verdict: str
    headline: Sequence[tuple[str, str]]
    """Names and values for cards elsewhere."""
    key_figures: Sequence[KeyFigure]
    sections: Sequence[Section]
    measured: Sequence[Measured]
    warnings: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    """More for metrics.json."""
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    """More tables: name -> rows."""


def scores_table(measured: Sequence[Measured]) -> pa.Table:
    """The table SCORES."""
    rows = []
    for each in measured:
        row: dict[str, Any] = {"name": each.name, "part": each.part, "count": each.count, "p": each.p}
        for side, interval in (("run", each.run), ("against", each.against), ("difference", each.difference)):
            for end in ("estimate", "low", "high"):
                row[side if end == "estimate" else f"{side}_{end}"] = _finite(getattr(interval or UNDEFINED, end))
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCORES)


def scores_json(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The same for metrics.json."""
    rows: list[dict[str, Any]] = scores_table(measured).to_pylist()
    return rows


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# Blocks


def scores_block(
    measured: Sequence[Measured], caption: str, *, first: str = "Score", counted: str = "", by_part: bool = False
) -> Table:
    """A row per score with its interval; with two runs both, the difference with its interval, and p.

    Args:
        first: name of the first column. counted: name of the column of counts, "" without.
        by_part: rows are named by their part.
    """
    paired = any(each.difference is not None for each in measured)
    tested = any(each.p is not None for each in measured)
    explained = any(each.meaning for each in measured) and not paired  # with two runs there is no room for words
    more = ("The other", "Difference", "95 %") if paired else ("95 %",)
    columns = [Column(name=first, tight=True), *([Column(name=counted, numeric=True)] if counted else [])]
    columns += [Column(name=name, tight=True) for name in ("This run", *more)]
    columns += [Column(name="p", numeric=True, digits=4)] if tested else []
    columns += [Column(name="What it says", wide=True)] if explained else []
    rows = []
    for each in measured:
        row: list[Any] = [each.part if by_part else each.title, *([each.count] if counted else [])]
        row.append(value_words(each.run))
        if paired:
            row += [value_words(each.against), signed(each.difference), ends_words(each.difference, sign=True)]
        else:
            row.append(ends_words(each.run))
        rows.append([*row, *([each.p] if tested else []), *([each.meaning] if explained else [])])
    return Table(caption=caption, columns=columns, rows=rows)


def difference_forest(
    measured: Sequence[Measured], caption: str, unit: str, *, by_part: bool = False
) -> Figure | Paragraph:
    """Differences with their intervals, a row each; those that aren't defined are left out."""
    shown = [each for each in measured if each.difference is not None and math.isfinite(each.difference.estimate)]
    if not shown:
        return Paragraph("No difference is defined.")
    names = [each.part if by_part else each.title for each in shown]
    found = [each.difference for each in shown if each.difference is not None]
    words = [f"{signed(each)} ({ends_words(each, sign=True)})" for each in found]
    hover = [label(f"{name}: {said}") for name, said in zip(names, words, strict=True)]
    traces = [
        dots(list(range(len(found))), [each.estimate for each in found], [(e.low, e.high) for e in found], hover=hover)
    ]
    return forest(traces, names, xaxis=axis(unit), caption=caption, lines=[upright(0.0)])


def value_words(interval: Interval | None, digits: int = 3) -> str:
    """ ".731"-like, "" for none at all."""
    if interval is None:
        return ""
    return f"{interval.estimate:.{digits}f}" if math.isfinite(interval.estimate) else "not defined"


def ends_words(interval: Interval | None, digits: int = 3, *, sign: bool = False) -> str:
    """ "0.70 to 0.75", "" without one."""
    if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    form = f"{'+' if sign else ''}.{digits}f"
    return f"{interval.low:{form}} to {interval.high:{form}}"


def signed(interval: Interval | None, digits: int = 3) -> str:
    """ "+0.012"."""
    if interval is None or not math.isfinite(interval.estimate):
        return ""
    return f"{interval.estimate:+.{digits}f}"


def verdict_words(each: Measured, better: str = "better", worse: str = "worse") -> str:
    """ "0.69 against 0.71 (-0.02; 95 %: -0.04 to +0.01; p 0.125): no clear difference", or the score alone."""
    if each.against is None or each.difference is None:
        ends = ends_words(each.run)
        return value_words(each.run) + (f" (95 %: {ends})" if ends else "")
    words = [signed(each.difference), f"95 %: {ends_words(each.difference, sign=True)}"]
    if each.p is not None:
        words.append("p < 0.001" if each.p < 0.001 else f"p {each.p:.3f}")
    sure = better if each.difference.low > 0 else worse if each.difference.high < 0 else "no clear difference"
    return f"{value_words(each.run)} against {value_words(each.against)} ({'; '.join(words)}): {sure}"


def compared_figure(each: Measured, label_words: str) -> KeyFigure:
    """A key figure with its interval, or with the other run's value."""
    if each.against is None:
        hint = f"95 %: {ends_words(each.run)}" if ends_words(each.run) else ""
    else:
        hint = f"the other: {value_words(each.against)} ({signed(each.difference)})"
    return KeyFigure(label=label_words, value=value_words(each.run), hint=hint)
