"""The finetune job's page: what the model writes beside what is so, how good that is, and what to distrust.

All that it says comes from a `Report` (see report.py), and so do the cards (card.py). Sections on how the model was
made are in page_making.py, figures in figures.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from raymedlt.finetuning.examples import Compared, Example, Told, compared
from raymedlt.finetuning.figures import finding_bars, finding_forest
from raymedlt.finetuning.page_making import cost_blocks, data_blocks, model_blocks, training_blocks, use_blocks
from raymedlt.finetuning.report import FindingCounts, Report, Scored
from raymedlt.finetuning.score_words import ends_words, rows_of, value_words, whole_words
from raymedlt.finetuning.warnings import warnings_of
from raymedlt.intervals import Share
from raymedlt.resampling import Interval
from raymedlt.runreport import render
from raymedlt.runreport.about import configuration_blocks, rejected_blocks
from raymedlt.runreport.page import (
    Block,
    Column,
    KeyFigure,
    KeyValues,
    Page,
    Paragraph,
    Picture,
    Piece,
    Reading,
    Readings,
    Section,
    Switch,
    Table,
)
from raymedlt.runreport.pictures import png, shrunk
from raymedlt.runreport.words import counted

PICTURE_PIXELS = 384  # longest side of an image on the page

LEGEND = (
    Piece(text="claims what is there", marks=["right"]),
    Piece(text="on the wrong side", marks=["partly"]),
    Piece(text="claims what is not there, or denies what is", marks=["wrong"]),
    Piece(text="names a finding that the model misses", marks=["missed"]),
    Piece(text="stands in both, word for word", marks=["same"]),
)
LEFT_OUT = Piece(text="true, but the original report leaves it out", marks=["unsaid"])


def finetune_page(
    report: Report, *, folder: str = "", command: str = "", paths: Mapping[str, str] | None = None
) -> str:
    """One HTML file.

    Args:
        folder: where the model lies, as it shall stand in the examples of use.
        command: what to type to resume or repeat the run.
        paths: table -> where it lies, as it shall be shown ("generations", "rejected").

    O(findings + examples); under a second.
    """
    places = dict(paths or {})
    sections = [
        Section(title="What the model writes", blocks=example_blocks(report, places)),
        Section(title="Finding by finding", blocks=_for_each_split(report, _finding_blocks)),
        Section(title="How it learnt", blocks=training_blocks(report)),
        Section(title="Scores", blocks=_for_each_split(report, _score_blocks)),
        Section(title="What it learnt from", blocks=data_blocks(report)),
        Section(title="The model", blocks=model_blocks(report)),
        Section(title="How to use it", blocks=use_blocks(report, folder)),
        Section(title="Cost", blocks=cost_blocks(report)),
        Section(title="Rejected rows", blocks=rejected_blocks(report.rejected, report.rejected_rows, places)),
        Section(title="Configuration", blocks=configuration_blocks(report.config, report.defaults)),
    ]
    return render(
        Page(
            title="Reports of chest X-rays, written by a model",
            verdict=verdict(report),
            about=f"Model: {report.model.words}. Learnt from {report.data.words}.",
            key_figures=_key_figures(report),
            warnings=warnings_of(report),
            sections=sections,
            config_hash=report.config_hash,
            resume=command,
        )
    )


def verdict(report: Report) -> str:
    """The outcome in one sentence."""
    scored = report.main
    if scored is None:
        return f"Trained on {report.data.studies.get('train', 0):,} studies; no report was scored."
    blind = "Without seeing an image, the model wrote" if report.blind else "The model wrote"
    total = scored.total
    start = f"{blind} reports for {scored.reports:,} {scored.split} images:"
    if not total.positives:
        return f"{start} none of them shows a finding, and it claims {total.claimed:,}."
    claims = (
        f"{100 * total.hits / total.claimed:.0f}\u00a0% of the {total.claimed:,} findings that it claims are there"
        if total.claimed
        else "it claims no finding at all"
    )
    return (
        f"{start} it names {100 * total.hits / total.positives:.0f}\u00a0% of the {total.positives:,} findings that"
        f" {'they show' if scored.complete is not None else 'the original reports name'}, and {claims}."
    )


def _key_figures(report: Report) -> list[KeyFigure]:
    scored, kept = report.main, report.training.kept
    shown = []
    if scored is not None:
        truth = f"against {scored.truth_words}"
        for name, words, hint in (
            ("micro_f1", "F1 of findings", truth),
            ("micro_recall", "Found", "of the findings that are there"),
            ("micro_precision", "Right", "of the findings that it claims"),
        ):
            shown.append(_figure(words, scored.main(name), hint))
        shown.append(_figure("F1 of exact sentences", scored.scores["sentence_f1"], "original reports"))
        own, truth_normal = scored.normal, scored.normal_truth
        shown.append(
            (
                "Reports without a finding",
                _percent(own),
                f"{_percent(truth_normal)} of {scored.truth_words}",
            )
        )
    if kept is not None:
        shown.append(
            (
                "Validation loss",
                f"{kept['validation_loss']:.3f}",
                f"per token, epoch {int(kept['epoch']) + 1} of {len(report.training.history)}",
            )
        )
    return [KeyFigure(label=name, value=value, hint=hint) for name, value, hint in shown]


def _figure(label: str, found: Interval, words: str) -> tuple[str, str, str]:
    value = value_words(found) if math.isfinite(found.estimate) else "–"
    ends = ends_words(found)
    return label, value, f"95 %: {ends} · {words}" if ends else words


def _percent(share: Share) -> str:
    return "–" if share.value is None else f"{100 * share.value:.0f}\u00a0%"


# Examples


def example_blocks(report: Report, paths: Mapping[str, str]) -> list[Block]:
    """Images with both texts, sentence by sentence."""
    if not report.examples:
        return [Paragraph("No examples: no report was written.")]
    complete = any(each.complete for each in report.examples)
    where = [Paragraph(f"All of them, with their scores: {paths['generations']}")] if "generations" in paths else []
    return [
        Paragraph(
            "Drawn by a hash of their ids, whatever the model made of them; three in four have a finding, where there"
            " are enough. Findings are read from the sentences by rules, which err too: point at a sentence to see what"
            " was read."
        ),
        Readings(
            readings=[_reading(each) for each in report.examples], legend=[*LEGEND, *([LEFT_OUT] if complete else [])]
        ),
        *where,
    ]


def _reading(example: Example) -> Reading:
    found = compared(example)
    original = [_piece(each) for each in found.reference]
    if found.left_out:
        original.append(Piece(text="Also true, but left out:", marks=["head"]))
        named = [each for each in found.left_out if each.claims]
        original += [_piece(each, "unsaid") for each in named]
        if denials := len(found.left_out) - len(named):
            more = "more " if named else ""
            original.append(Piece(text=f"({counted(denials, f'{more}sentence')} without a finding)", marks=["unsaid"]))
    written = [_piece(each) for each in found.written] or [Piece(text="(nothing)", marks=["unsaid"])]
    if example.cut:
        written.append(Piece(text="(ends here: generation.max_tokens)", marks=["unsaid"]))
    tags = [
        ("found", found.found, "right"),
        ("wrong side", found.side, "partly"),
        ("missed", found.missed, "missed"),
        ("not there", found.wrong, "wrong"),
    ]
    return Reading(
        title=_title(found),
        picture=Picture(
            png=png(shrunk(example.image_SS, PICTURE_PIXELS)),
            alt=f"Chest X-ray {example.image_id}",
            note=example.image_id,
        ),
        texts=[("The model", written), ("Original report", original)],
        tags=[(f"{words}: {name}", mark) for words, names, mark in tags for name in names],
    )


def _title(found: Compared) -> str:
    named = len(found.found) + len(found.side)
    there = named + len(found.missed)
    if not there:
        return f"No finding; {len(found.wrong)} wrongly claimed" if found.wrong else "No finding, and none claimed"
    side = f", {len(found.side)} on the wrong side" if found.side else ""
    wrong = f", {len(found.wrong)} wrongly claimed" if found.wrong else ""
    return f"{named} of {counted(there, 'finding')} named{side}{wrong}"


def _piece(told: Told, *marks: str) -> Piece:
    """The gravest colour wins; the note says all."""
    colour = (
        ["wrong"] if told.wrong or told.denied else ["partly"] if told.side else ["right"] if told.right
        else ["missed"] if told.missed else []
    )  # fmt: skip
    notes = [
        (told.right, "there"),
        (told.side, "there, but on the other side"),
        (told.wrong, "not there"),
        (told.denied, "denied, but there"),
        (told.missed, "not named by the model"),
    ]
    note = "; ".join(f"{', '.join(names)}: {words}" for names, words in notes if names)
    same = ["same"] if told.same and "missed" not in colour else []
    return Piece(text=told.text, marks=[*colour, *same, *marks], note=note)


# Scores


def _for_each_split(report: Report, blocks: Callable[[Scored], list[Block]]) -> list[Block]:
    """One split as it is, several in panels, the main one first."""
    if report.main is None:
        return [Paragraph("No report was scored.")]
    if len(report.scored) == 1:
        return blocks(report.main)
    ranked = sorted(report.scored, key=lambda each: each is not report.main)
    return [Switch([(each.split, blocks(each)) for each in ranked])]


def _finding_blocks(scored: Scored) -> list[Block]:
    if not scored.truth:
        return [Paragraph("Neither the model nor the truth names a finding.")]
    return [
        Paragraph(f"Held against {scored.truth_words} of {counted(scored.reports, f'{scored.split} report')}."),
        Switch(
            [
                ("Counts", [finding_bars(scored.truth)]),
                ("Recall and precision", [finding_forest(scored.truth)]),
            ]
        ),
        _finding_table(scored.truth, f"Every finding, against {scored.truth_words}."),
    ]


def _finding_table(findings: Sequence[FindingCounts], caption: str) -> Table:
    return Table(
        caption=caption,
        columns=[
            Column(name="Finding"),
            Column(name="There", numeric=True, hint="Reports whose truth has it"),
            Column(name="Claimed", numeric=True, hint="Reports of the model that claim it"),
            Column(name="Found", numeric=True, hint="Of those that are there"),
            Column(name="Precision", numeric=True, digits=2),
            Column(name="Recall", numeric=True, digits=2),
            Column(name="95 %", tight=True, hint="Wilson's interval of the recall"),
            Column(name="F1", numeric=True, digits=2),
        ],
        rows=[
            (
                each.name, each.positives, each.claimed, each.hits, each.precision.value, each.recall.value,
                "{:.2f}–{:.2f}".format(*each.recall.interval) if each.positives else "", each.f1,
            )
            for each in findings
        ],
    )  # fmt: skip


def _score_blocks(scored: Scored) -> list[Block]:
    complete = scored.complete is not None
    columns = [Column(name="Score", tight=True), Column(name="Original", tight=True), Column(name="95 %", tight=True)]
    if complete:
        columns += [Column(name="Complete", tight=True), Column(name="95 % ", tight=True)]
    rows = []
    for row in rows_of(scored):
        ends = (value_words(row.complete), ends_words(row.complete)) if complete else ()
        rows.append((row.name, value_words(row.original), ends_words(row.original), *ends, row.meaning))
    blocks: list[Block] = [
        Table(
            caption=f"{counted(scored.reports, f'{scored.split} report')} of {counted(scored.patients, 'patient')},"
            " with 95 % intervals from resampling whole patients."
            + (
                " Original: against the original reports, which leave things out; complete: against texts that leave"
                " nothing out, so that what is true is never counted as wrong."
                if complete
                else " A true finding that the original report leaves out counts as wrong here."
            ),
            columns=[*columns, Column(name="What it says", wide=True)],
            rows=rows,
        ),
        KeyValues(
            [
                ("Words of a report", whole_words(scored.scores.get("words"), 1), _references(scored)),
                ("Different reports", f"{scored.distinct:,}", f"the original ones: {scored.distinct_references:,}"),
                ("Reports without a finding", str(scored.normal), f"{scored.truth_words}: {scored.normal_truth}"),
                ("Ended by the limit", f"{scored.cut:,}", "of generation.max_tokens tokens, in the middle of the text"),
            ]
        ),
    ]
    if scored.absent:
        blocks.append(KeyValues([_absent(line) for line in scored.absent], title="Not computed"))
    return blocks


def _references(scored: Scored) -> str:
    return f"the original ones: {scored.reference_words:.1f}"


def _absent(line: str) -> tuple[str, str]:
    name, _, why = line.partition(": ")
    return name, why.removeprefix("not computed (").removesuffix(")")
