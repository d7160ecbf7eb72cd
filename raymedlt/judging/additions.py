"""Two finished runs of jobs/enrich.py over the same reports, held against each other. One alone is audited instead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.enrichment import open_run
from raymedlt.enrichment.audit.contradiction import judge_additions, labels_of, scheme_for
from raymedlt.errors import InputError
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.evaluation.paired import Score, difference, interval, mean_score, randomisation_test
from raymedlt.judging.finished import FinishedRun
from raymedlt.judging.judged import (
    DIFFERENCES,
    Judged,
    Measured,
    compared_figure,
    difference_forest,
    scores_block,
    signed,
    verdict_words,
)
from raymedlt.resampling import Patients
from raymedlt.runreport.page import Block, Example, Examples, Marked, Paragraph, Section, Switch
from raymedlt.runreport.words import counted
from raymedlt.schema import ENRICHED, ITEM_SCORES, TRAIN

Floats = npt.NDArray[np.float64]
_ROWS = pa.schema([ENRICHED.field(name) for name in ("report_id", "patient_id", "split", "findings", "variant")])
_NAMES = {
    "enriched": ("Reports enriched", "share that was given an addition"),
    "added": ("Sentences added", "per report"),
    "against_labels": ("Additions against labels", "share of the additions that the reports' labels contradict"),
}


@dataclass(frozen=True, eq=False)
class Additions:
    """What a run added (first variant) to its training reports with findings."""

    findings: dict[str, tuple[str, str]]
    """report_id -> patient_id and the findings as they were."""
    sentences: dict[str, list[str]]
    wrong: dict[str, int] | None
    """Additions that the report's labels contradict; None without labels."""

    @classmethod
    def of(cls, run: FinishedRun, config: EvaluateConfig) -> Additions:
        """From the run's tables."""
        table = run.table("enriched", _ROWS)
        able = pc.and_(pc.equal(table["split"], TRAIN), pc.not_equal(table["findings"], ""))
        rows = table.filter(pc.and_(able, pc.equal(table["variant"], 0))).to_pylist()
        whole = open_run(run.uri, check=False)
        first = whole.additions.filter(pc.equal(whole.additions["variant"], 0))
        sentences: dict[str, list[str]] = defaultdict(list)
        for report, sentence in zip(first["report_id"].to_pylist(), first["sentence"].to_pylist(), strict=True):
            sentences[report].append(sentence)
        return cls(
            {row["report_id"]: (row["patient_id"], row["findings"]) for row in rows}, dict(sentences),
            _wrong(whole, first, config),
        )  # fmt: skip

    def scores(self, ids: Sequence[str]) -> dict[str, tuple[Score, Floats]]:
        """Name -> the score over these reports, and each report's value."""
        added = np.array([len(self.sentences.get(name, ())) for name in ids], np.float64)
        enriched = (added > 0).astype(np.float64)
        found = {"enriched": (mean_score(enriched), enriched), "added": (mean_score(added), added)}
        if self.wrong is not None:
            wrong = np.array([self.wrong.get(name, 0) for name in ids], np.float64)
            found["against_labels"] = (Score(np.stack([wrong, added], 1), _ratio), wrong)
        return found


def judge(config: EvaluateConfig, run: FinishedRun, against: FinishedRun) -> Judged:
    """Both runs on the reports that both could have enriched.

    Raises:
        InputError: there are none, or their findings or patients differ.
    """
    own, other = Additions.of(run, config), Additions.of(against, config)
    ids = _common(own, other)
    patients = Patients.of([own.findings[name][0] for name in ids])
    first, second = own.scores(ids), other.scores(ids)
    how = {"resamples": config.bootstrap, "seed": config.seed}
    measured = []
    for name in (each for each in first if each in second):
        (one, _), (two, _) = first[name], second[name]
        title, meaning = _NAMES[name]
        measured.append(
            Measured(
                name=name, title=title, meaning=meaning, count=len(ids), run=interval(one, patients, **how),
                against=interval(two, patients, **how), difference=difference(one, two, patients, **how),
                p=randomisation_test(one, two, patients, permutations=config.permutations, seed=config.seed),
            )
        )  # fmt: skip
    items = [
        {"item_id": name, "patient_id": own.findings[name][0], "name": each.name, "run": one, "against": two}
        for each in measured
        for name, one, two in zip(ids, first[each.name][1].tolist(), second[each.name][1].tolist(), strict=True)
    ]
    return Judged(
        title="Two enrichment runs",
        verdict=_verdict(measured[0], len(ids), patients.count),
        headline=[(each.title, f"{each.run.estimate:.3f} ({signed(each.difference)})") for each in measured],
        key_figures=[compared_figure(each, each.title) for each in measured],
        sections=[
            Section(
                title="Scores",
                blocks=[
                    scores_block(measured, f"{counted(len(ids), 'report')} that both could enrich. {DIFFERENCES}"),
                    difference_forest(measured, "Differences of the scores above.", "difference"),
                ],
            ),
            Section(title="Where they differ most", blocks=_examples(config, own, other, ids)),
        ],
        measured=measured,
        warnings=[] if "against_labels" in first else ["The reports have no labels to hold additions against."],
        figures={"reports": len(ids), "patients": patients.count},
        tables={"items": pa.Table.from_pylist(items, schema=ITEM_SCORES)},
    )


def _ratio(sums_2: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums_2[..., 0] / sums_2[..., 1], np.float64)


def _wrong(whole: Any, additions: pa.Table, config: EvaluateConfig) -> dict[str, int] | None:
    labels = labels_of(whole.reports, config.labels.path)
    scheme = scheme_for(labels, config.labels.format) if labels else None
    if scheme is None:
        return None
    table = judge_additions(whole.training, additions, labels, scheme, whole.language).table
    found: dict[str, set[str]] = defaultdict(set)
    for row in table.filter(pc.equal(table["source"], "addition")).to_pylist():
        found[row["report_id"]].add(row["sentence"])
    return {name: len(sentences) for name, sentences in found.items()}


def _common(own: Additions, other: Additions) -> list[str]:
    both = sorted(own.findings.keys() & other.findings.keys())
    changed = sum(own.findings[name] != other.findings[name] for name in both)
    if not both or changed:
        raise InputError(
            f"of {len(own.findings):,} and {len(other.findings):,} reports {len(both):,} are in both runs, and"
            f" {changed:,} of these have other findings or patients",
            "two runs over the same reports",
            "check --run and --against",
        )
    return both


def _verdict(main: Measured, reports: int, patients: int) -> str:
    return (
        f"Of {counted(reports, 'report')} of {counted(patients, 'patient')} the share that was enriched is"
        f" {verdict_words(main, 'more', 'fewer')}."
    )


def _examples(config: EvaluateConfig, own: Additions, other: Additions, ids: Sequence[str]) -> list[Block]:
    """Reports with most additions of one run that the other one lacks."""

    def lacking(name: str) -> int:
        return len(set(own.sentences.get(name, ())) ^ set(other.sentences.get(name, ())))

    differ = [name for name in sorted(ids, key=lambda each: (-lacking(each), each)) if lacking(name)]
    if not differ:
        return [Paragraph("Both runs added the same to every report.")]
    panels: list[tuple[str, Sequence[Block]]] = [
        (title, [Examples([_example(side, name) for name in differ[: config.examples]])])
        for title, side in (("This run", own), ("The other", other))
    ]
    return [
        Paragraph(f"{len(differ):,} of {len(ids):,} reports were given other sentences; those with the most of them."),
        Switch(panels),
    ]


def _example(side: Additions, name: str) -> Example:
    return Example(
        title=name, original=side.findings[name][1],
        marked=[Marked(text=sentence) for sentence in side.sentences.get(name, ())],
    )  # fmt: skip
