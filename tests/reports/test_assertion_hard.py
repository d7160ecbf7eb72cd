"""Sentences of the kind that hospital reports hold, each with its sign and the mentions that matter.

The table is assertion_cases.csv. A mention is "finding assertion side"; further mentions are allowed, so that the table
says what a reader would insist on. The sentences were written before the engine was run on them.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from raymedlt.reports.assertion import judge, judge_many
from raymedlt.reports.vocabulary import ontology

with open(Path(__file__).with_name("assertion_cases.csv"), encoding="utf-8", newline="") as file:
    CASES = [(row["sentence"], row["sign"], row["mentions"]) for row in csv.DictReader(file)]


def claims(sentence: str) -> set[str]:
    return {f"{each.finding} {each.assertion} {each.side}".strip() for each in judge(sentence).mentions}


@pytest.mark.parametrize(("sentence", "sign", "mentions"), CASES, ids=[case[0] for case in CASES])
def test_hard_sentences(sentence: str, sign: str, mentions: str) -> None:
    judgement = judge(sentence)
    assert judgement.sign == sign, judgement
    wanted = {each.strip() for each in mentions.split(";") if each.strip()}
    assert wanted <= claims(sentence)


def test_mentions_point_into_their_sentence_and_come_in_its_order() -> None:
    for (sentence, _, _), judgement in zip(CASES, judge_many([case[0] for case in CASES]), strict=True):
        starts = [mention.start for mention in judgement.mentions]
        assert starts == sorted(starts)
        for mention in judgement.mentions:
            assert 0 <= mention.start < mention.end <= len(sentence)
            assert sentence[mention.start : mention.end].strip() == sentence[mention.start : mention.end]
            assert mention.finding in ontology().kinds
            assert mention.assertion in {"present", "absent", "uncertain", "historical"}
            assert mention.side in {"left", "right", "bilateral", ""}


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("There is RLL pneumonia.", ["pneumonia"]),
        ("r/o PTX", ["PTX"]),
        ("Heart is mildly enlarged, no effusion.", ["enlarged", "effusion"]),
        ("The left  pleural   effusion has resolved", ["pleural   effusion"]),
        ("No consolidation/effusion", ["consolidation", "effusion"]),
        ("Fracture of the T12 vertebra", ["Fracture"]),
    ],
)
def test_spans_are_the_words_as_written(sentence: str, words: list[str]) -> None:
    assert [sentence[each.start : each.end] for each in judge(sentence).mentions] == words


def test_the_table_is_large_and_of_every_sign() -> None:
    signs = [sign for _, sign, _ in CASES]
    assert len(CASES) >= 300
    assert min(signs.count(sign) for sign in ("normal", "neutral", "abnormal", "mixed")) >= 30
