"""Reports of two runs beside the original ones: those that differ most."""

from __future__ import annotations

import numpy as np

from raymedlt.evaluation.findings import claims_of
from raymedlt.evaluation.scores import COMPLETE, Evaluation
from raymedlt.evaluation.sentences import keys_of
from raymedlt.judging.texts import Known, Texts
from raymedlt.reports.sentences import split_sentences
from raymedlt.runreport.page import Block, Paragraph, Piece, Reading, Readings

_LEGEND = (
    Piece(text="names a finding that is there", marks=["right"]),
    Piece(text="names one that is not there", marks=["wrong"]),
    Piece(text="named by neither run", marks=["missed"]),
    Piece(text="word for word in the original report", marks=["same"]),
)


def readings_of(
    first: Texts, second: Texts, own: Evaluation, other: Evaluation, known: Known, most: int
) -> list[Block]:
    """Half of them where the run is better, half where it is worse."""
    name = f"{COMPLETE}report_f1" if known.complete is not None else "report_f1"
    gain_N = own.per_report[name] - other.per_report[name]
    ties_N = own.per_report["chrf"] - other.per_report["chrf"]
    order = np.lexsort((np.array(first.report_ids), -ties_N, -gain_N))
    differ = [int(row) for row in order if first.completions[row] != second.completions[row]]
    same = len(order) - len(differ)
    half = most // 2
    better, worse = differ[: most - half], differ[::-1][:half]
    shown = [*better, *(row for row in worse if row not in better)]
    readings = []
    for row in shown:
        truth = known.complete[row] if known.complete is not None else first.references[row]
        language, reference = known.languages[row], first.references[row]
        texts = (first.completions[row], second.completions[row])
        named = claims_of(texts[0], language).groups | claims_of(texts[1], language).groups
        readings.append(
            Reading(
                title=f"{first.report_ids[row]}: F1 of findings {own.per_report[name][row]:.2f} against"
                f" {other.per_report[name][row]:.2f}",
                picture=None if known.pictures is None else known.pictures.of(first.report_ids[row]),
                texts=[
                    ("This run", _written(texts[0], truth, reference, language)),
                    ("The other", _written(texts[1], truth, reference, language)),
                    ("Original report", _original(reference, named, language)),
                ],
            )
        )  # fmt: skip
    return [
        Paragraph(
            f"{same:,} of {len(order):,} reports are the same in both runs. Of the others those that gain most in the"
            " F1 of their findings, and those that lose most. Findings are read by rules, which err too."
        ),
        Readings(readings=readings, legend=_LEGEND),
    ]


def _written(text: str, truth: str, reference: str, language: str) -> list[Piece]:
    there, keys = claims_of(truth, language).groups, set(keys_of(reference))
    pieces = []
    for sentence in split_sentences(text):
        claimed = claims_of(sentence, language).groups
        marks = ["wrong"] if claimed - there else ["right"] if claimed else []
        same = ["same"] if set(keys_of(sentence)) & keys else []
        note = f"not there: {', '.join(sorted(claimed - there))}" if claimed - there else ""
        pieces.append(Piece(text=sentence, marks=[*marks, *same], note=note))
    return pieces or [Piece(text="(nothing)", marks=["unsaid"])]


def _original(reference: str, named: frozenset[str], language: str) -> list[Piece]:
    return [
        Piece(text=sentence, marks=["missed"] if claims_of(sentence, language).groups - named else [])
        for sentence in split_sentences(reference)
    ] or [Piece(text="(nothing)", marks=["unsaid"])]
