"""Written reports, judged: of one finished run of jobs/finetune.py or jobs/align.py, or of two on studies of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.evaluation.findings import Agreement, precision_recall_f1
from raymedlt.evaluation.paired import Score, difference, interval
from raymedlt.evaluation.scores import COMPLETE, Evaluation, evaluate
from raymedlt.finetuning.score_words import APART, NAMES, named
from raymedlt.judging.finished import FinishedRun
from raymedlt.judging.judged import (
    OF_MODELS,
    Judged,
    Measured,
    compared_figure,
    difference_forest,
    scores_block,
    signed,
    verdict_words,
)
from raymedlt.judging.readings import readings_of
from raymedlt.judging.texts import Known, Texts, common, known_of
from raymedlt.runreport.page import Block, Column, KeyValues, Paragraph, Section, Table
from raymedlt.runreport.words import counted
from raymedlt.schema import ITEM_SCORES


def judge(config: EvaluateConfig, run: FinishedRun, against: FinishedRun | None) -> Judged:
    """Scores of the run's reports; with another run of both on the same studies, differences and tests.

    Raises:
        InputError: the two runs have no study in common, or other references.
    """
    first = Texts.of(run)
    second = None if against is None else Texts.of(against)
    if second is not None:
        first, second = common(first, second)
    known = known_of(run, first, config.scoring.clusters)
    own = _evaluated(config, first, known)
    other = None if second is None else _evaluated(config, second, known)
    measured = [*_measured(config, own, other), *_by_finding(config, own, other)]
    overall = [each for each in measured if not each.part]
    sections = [Section(title="Scores", blocks=_score_blocks(overall, own, known))]
    if other is not None and second is not None:
        readings = readings_of(first, second, own, other, known, config.examples)
        sections.append(Section(title="Where they differ most", blocks=readings))
    findings = [each for each in measured if each.part]
    sections.append(Section(title="Finding by finding", blocks=_finding_blocks(findings, own, known)))
    main = _main(overall)
    return Judged(
        title="Written reports" if other is None else "Two runs that write reports",
        verdict=_verdict(main, len(first.report_ids), own.patients.count),
        headline=_headline(overall, other is not None),
        key_figures=[
            compared_figure(each, each.title) for name in ("micro_f1", "micro_precision", "micro_recall", "report_f1")
            if (each := _of(overall, f"{_prefix(overall)}{name}")) is not None
        ],
        sections=sections,
        measured=measured,
        warnings=known.missing,
        figures={"reports": len(first.report_ids), "patients": own.patients.count, "absent": own.absent},
        tables={"items": _items(first, own, other)},
    )  # fmt: skip


def _evaluated(config: EvaluateConfig, texts: Texts, known: Known) -> Evaluation:
    return evaluate(
        texts.completions, texts.references, texts.patient_ids, complete=known.complete, language=known.languages,
        clusters=known.clusters, scorers=config.scoring,
    )  # fmt: skip


# Scores


def _measured(config: EvaluateConfig, own: Evaluation, other: Evaluation | None) -> list[Measured]:
    how = {"resamples": config.bootstrap, "seed": config.seed}
    found = []
    for name in sorted(own.scores, key=_place):
        plain = name.removeprefix(COMPLETE)
        title, meaning = named(plain)
        whole = name.startswith(COMPLETE)
        found.append(
            Measured(
                name=name, title=f"{title} (complete)" if whole else title,
                meaning="against texts that leave nothing out" if whole else meaning,
                run=own.interval(name, **how), count=len(own.patients.number_N),
                against=None if other is None else other.interval(name, **how),
                difference=None if other is None else own.difference(other, name, **how),
                p=None if other is None
                else own.randomisation_test(other, name, permutations=config.permutations, seed=config.seed),
            )
        )  # fmt: skip
    return found


def _place(name: str) -> tuple[bool, int]:
    """Scores against complete texts first, then in the order of the fine-tuning page; words last."""
    plain = name.removeprefix(COMPLETE)
    order = list(NAMES).index(plain) if plain in NAMES else len(NAMES) + (plain == APART)
    return not name.startswith(COMPLETE), order


def _by_finding(config: EvaluateConfig, own: Evaluation, other: Evaluation | None) -> list[Measured]:
    """F1 of each finding that the truth has, the commonest first."""
    how = {"resamples": config.bootstrap, "seed": config.seed}
    agreement = _truth(own)
    positives = (agreement.hits_NG | agreement.missed_NG).sum(0)
    found = []
    for number in np.argsort(-positives, kind="stable"):
        name = str(agreement.names[number])
        if not positives[number]:
            continue
        score = _score_of(agreement, name)
        beside = None if other is None else _score_of(_truth(other), name)
        found.append(
            Measured(
                name="finding_f1", title=name, part=name, count=int(positives[number]),
                run=interval(score, own.patients, **how),
                against=None if beside is None else interval(beside, own.patients, **how),
                difference=None if beside is None else difference(score, beside, own.patients, **how),
            )
        )  # fmt: skip
    return found


def _truth(evaluation: Evaluation) -> Agreement:
    return evaluation.agreement if evaluation.complete is None else evaluation.complete


def _score_of(agreement: Agreement, name: str) -> Score:
    return Score(agreement.counts_NG3[:, agreement.names.index(name)], lambda sums: precision_recall_f1(sums)[..., 2])


def _of(measured: Sequence[Measured], name: str) -> Measured | None:
    return next((each for each in measured if each.name == name), None)


def _prefix(measured: Sequence[Measured]) -> str:
    return COMPLETE if _of(measured, f"{COMPLETE}micro_f1") is not None else ""


def _main(measured: Sequence[Measured]) -> Measured:
    return next(each for each in measured if each.name == f"{_prefix(measured)}micro_f1")


def _verdict(main: Measured, reports: int, patients: int) -> str:
    both = "" if main.against is None else " that both runs wrote"
    return (
        f"In {counted(reports, 'report')}{both} of {counted(patients, 'patient')} the F1 of findings is"
        f" {verdict_words(main)}."
    )


def _headline(measured: Sequence[Measured], paired: bool) -> list[tuple[str, str]]:
    names = (f"{_prefix(measured)}micro_f1", "cluster_f1_strict", "sentence_f1")
    found = [each for name in names if (each := _of(measured, name)) is not None]
    return [
        (each.title, f"{each.run.estimate:.3f}" + (f" ({signed(each.difference)})" if paired else "")) for each in found
    ]


# Blocks


def _score_blocks(measured: Sequence[Measured], own: Evaluation, known: Known) -> list[Block]:
    blocks: list[Block] = [
        scores_block(
            measured,
            f"{counted(len(own.patients.number_N), 'report')} of {counted(own.patients.count, 'patient')}."
            + (f" {OF_MODELS}" if measured[0].difference is not None else ""),
        )
    ]
    if known.complete is not None:
        blocks.append(
            Paragraph(
                "Complete: against texts that leave nothing out, so that what is true is never counted as wrong."
                " The others: against the original reports, which leave things out."
            )
        )
    if own.absent:
        lines = [line.partition(": ") for line in own.absent]
        blocks.append(KeyValues([(name, why) for name, _, why in lines], title="Not computed"))
    return blocks


def _finding_blocks(measured: Sequence[Measured], own: Evaluation, known: Known) -> list[Block]:
    if not measured:
        return [Paragraph("The reports' findings: none.")]
    truth = "original reports" if known.complete is None else "complete texts"
    rates = own.by_finding(complete=known.complete is not None)
    blocks: list[Block] = []
    if measured[0].difference is not None:
        blocks.append(
            difference_forest(measured, f"Difference of each finding's F1, held against {truth}.", "F1", by_part=True)
        )
    return [
        *blocks,
        scores_block(
            measured, f"F1 of each finding, held against {truth}.", first="Finding", counted="There", by_part=True
        ),
        Table(
            caption="Precision and recall of this run.",
            columns=[
                Column(name="Finding"), Column(name="There", numeric=True), Column(name="Claimed", numeric=True),
                Column(name="Precision", numeric=True, digits=2), Column(name="Recall", numeric=True, digits=2),
            ],
            rows=[
                (each.part, each.count, int(rates[each.part]["claimed"]), rates[each.part]["precision"],
                 rates[each.part]["recall"])
                for each in measured
            ],
        ),
    ]  # fmt: skip


def _items(texts: Texts, own: Evaluation, other: Evaluation | None) -> pa.Table:
    """The table ITEM_SCORES: every report's own scores."""
    tables = []
    for name, values in own.per_report.items():
        beside = [None] * len(values) if other is None else other.per_report[name].tolist()
        columns = {
            "item_id": texts.report_ids, "patient_id": texts.patient_ids, "name": [name] * len(values),
            "run": values.tolist(), "against": beside,
        }  # fmt: skip
        tables.append(pa.table(columns, schema=ITEM_SCORES))
    return pa.concat_tables(tables)
