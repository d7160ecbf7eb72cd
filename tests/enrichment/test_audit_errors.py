"""How known errors are made. All sentences are written for these tests."""

from __future__ import annotations

import random

import pytest

from raymedlt.enrichment.audit import errors
from raymedlt.enrichment.audit.errors import (
    DEVICE,
    KINDS,
    NEGATION,
    OTHER_WORDS,
    OWN_NEGATED,
    PLAIN_DENIAL,
    SIDE_AFFIRMED,
    SIDE_DENIED,
    SIDE_SWAPPED,
    STRANGE_ABNORMAL,
    STRANGE_NUMBER,
    STRANGE_SIDE,
    STRANGE_TIME,
    by_engine,
    by_hand,
    errors_for,
    may_be_added,
    own_negated,
    reads_normal,
    strange_kinds,
)


def made(*sentences: str, strange: dict[str, list[str]] | None = None) -> dict[str, set[str]]:
    """Kind -> all errors that some seed makes of it."""
    found: dict[str, set[str]] = {}
    for seed in range(60):
        for each in errors_for(sentences, strange or {}, "en", random.Random(seed)):
            found.setdefault(each.kind, set()).add(each.sentence)
    return found


def test_the_table_is_complete():
    rows = errors.table()
    assert len({row.finding for row in rows}) >= 25
    assert all(len(row.denials) >= 2 for row in rows)
    assert {row.kind for row in rows} == {"finding", "statement", "device"}
    for row in rows:
        for denial in row.denials:
            assert denial.endswith(".")
            assert not by_hand(denial)  # a denial asserts nothing


@pytest.mark.parametrize(
    ("sentence", "finding"),
    [
        ("There is a small left pleural effusion.", "pleural effusion"),
        ("The heart is mildly enlarged.", "enlarged heart"),
        ("Moderate cardiomegaly.", "enlarged heart"),
        ("A dual chamber pacemaker is in place.", "pacemaker"),
    ],
)
def test_plain_assertions_are_found(sentence: str, finding: str):
    assert finding in {each.finding for each in by_hand(sentence)}


@pytest.mark.parametrize(
    "sentence",
    [
        "No pleural effusion.",
        "The effusion has resolved.",
        "Possible small effusion.",
        "Evaluate for effusion.",
        "Small pericardial effusion.",
        "The previous effusion was drained.",
        "Subcutaneous emphysema.",
    ],
)
def test_doubt_denial_and_time_are_no_assertion(sentence: str):
    assert {each.finding for each in by_hand(sentence)} <= {"subcutaneous emphysema"}


def test_the_engine_gives_nouns_only():
    assert [each.term for each in by_engine("There is a small pleural effusion.", "en")] == ["pleural effusion"]
    assert by_engine("The heart is enlarged.", "en") == []
    assert by_engine("There is no pleural effusion.", "en") == []


@pytest.mark.parametrize(
    ("sentence", "negated"),
    [
        ("There is a small left effusion.", "There is no small left effusion."),
        ("There are bilateral effusions.", "There are no bilateral effusions."),
        ("The heart is enlarged.", "The heart is not enlarged."),
        ("A small effusion is present.", "A small effusion is not present."),
        ("Small left effusion.", "No small left effusion."),
        ("An enlarged heart.", "No enlarged heart."),
        ("Effusion and atelectasis.", ""),
        ("Small effusion, left.", ""),
        ("The film shows an effusion.", ""),
        ("A nodule of 8 mm.", ""),
    ],
)
def test_own_sentences_are_turned_round(sentence: str, negated: str):
    assert own_negated(sentence) == negated


def test_every_kind_of_contradiction():
    found = made("There is a small left pleural effusion.", "A pacemaker is in place.")
    assert {NEGATION, PLAIN_DENIAL, OWN_NEGATED, OTHER_WORDS, SIDE_DENIED, SIDE_AFFIRMED, SIDE_SWAPPED, DEVICE} == set(
        found
    )
    assert "There is no pleural effusion." in found[NEGATION] & found[PLAIN_DENIAL]
    assert found[OTHER_WORDS] >= {"The costophrenic angles are sharp.", "The pleural spaces are clear."}
    assert "No left pleural effusion." in found[SIDE_DENIED]
    assert "There is a right pleural effusion." in found[SIDE_AFFIRMED]
    assert found[SIDE_SWAPPED] == {"There is a small right pleural effusion."}
    assert {"No pacemaker.", "No cardiac device."} <= found[DEVICE]


def test_grammar_follows_the_number():
    sentences = set().union(*made("Pleural effusions are present.").values())
    assert "No pleural effusions are seen." in sentences
    assert not any("effusions is" in sentence for sentence in sentences)
    assert "No atelectasis is seen." in set().union(*made("Atelectasis is present.").values())


def test_no_side_error_where_the_other_side_may_be_true():
    for second in ("Right effusion as well.", "Bilateral effusions."):
        assert not {SIDE_AFFIRMED, SIDE_DENIED, SIDE_SWAPPED} & set(made("Small left pleural effusion.", second))
    assert SIDE_AFFIRMED in made("Small left pleural effusion.", "The right lung is clear.")


def test_a_normal_report_gives_no_contradiction():
    assert made("Heart size is normal.", "No pleural effusion.") == {}


def test_strangers_that_say_the_same_are_no_error():
    strange = {STRANGE_ABNORMAL: ["There is a pleural effusion."]}
    assert STRANGE_ABNORMAL not in made("Small pleural effusion.", strange=strange)
    assert STRANGE_ABNORMAL in made("The heart is enlarged.", strange=strange)


@pytest.mark.parametrize(
    ("sentence", "kinds"),
    [
        ("There is a right effusion.", [STRANGE_ABNORMAL]),
        ("The right lung is clear.", [STRANGE_SIDE]),
        ("No nodule above 4 mm.", [STRANGE_NUMBER]),
        ("Unchanged normal heart size.", [STRANGE_TIME]),
        ("The right and left lung are clear.", []),
        ("No effusion.", []),
    ],
)
def test_what_is_strange_to_another_patient(sentence: str, kinds: list[str]):
    assert strange_kinds(sentence) == kinds


@pytest.mark.parametrize(
    ("sentence", "normal"),
    [
        ("Heart size is normal.", True),
        ("No acute cardiopulmonary abnormality.", True),
        ("Lungs are clear, but a scar is seen.", False),
        ("Stable normal heart size.", False),
        ("Cardiomegaly.", False),
    ],
)
def test_reads_normal(sentence: str, normal: bool):
    assert reads_normal(sentence) is normal


@pytest.mark.parametrize("sentence", ["Normal heart, 12 cm.", "No XXXX seen.", "Left lung clear.", "Stable."])
def test_what_could_not_stand_elsewhere(sentence: str):
    assert not may_be_added(sentence)
    assert may_be_added("The lungs are clear.")


def test_the_same_seed_makes_the_same_errors():
    sentences = ["Small left pleural effusion.", "There is cardiomegaly.", "A port catheter ends in the atrium."]
    runs = [errors_for(sentences, {}, "en", random.Random(5)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({each.kind for each in runs[0]}) == len(runs[0])  # one of each kind
    assert {each.kind for each in runs[0]} <= set(KINDS)
