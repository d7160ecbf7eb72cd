"""The one sentence splitter, on sentences written for it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymedlt.reports.sentences import sentence_key, split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The nodule is 1.5 cm. It is round.", ["The nodule is 1.5 cm.", "It is round."]),
        ("It grew from 1. 5 cm to 2 cm. Stable otherwise.", ["It grew from 1. 5 cm to 2 cm.", "Stable otherwise."]),
        ("Seen by Dr. Who at 5 a.m. today. Fine.", ["Seen by Dr. Who at 5 a.m. today.", "Fine."]),
        ("Told to Dr. J. Smith. Fine.", ["Told to Dr. J. Smith.", "Fine."]),
        ("Read at 10 a.m. The heart is big.", ["Read at 10 a.m.", "The heart is big."]),
        ("Past T.B. exposure. History of T.B. No cavity.", ["Past T.B. exposure.", "History of T.B.", "No cavity."]),
        ("Scar, e.g. old. Nodule vs. vessel.", ["Scar, e.g. old.", "Nodule vs. vessel."]),
        ("Approx. 3 mm. in size. Rib No. 4 is bent.", ["Approx. 3 mm. in size.", "Rib No. 4 is bent."]),
        ("Is there fluid? No. None at all!", ["Is there fluid?", "No.", "None at all!"]),
        ("? effusion on the left. Clear.", ["? effusion on the left.", "Clear."]),
        ("Big heart; clear lungs. Fine.", ["Big heart; clear lungs.", "Fine."]),
        ("1. No effusion 2. Clear lungs 3. Old scar.", ["No effusion", "Clear lungs", "Old scar."]),
        ("1) No effusion 2) Clear lungs.", ["No effusion", "Clear lungs."]),
        ("(1) No effusion. (2) Clear lungs.", ["No effusion.", "Clear lungs."]),
        ("1.No effusion 2.Clear lungs.", ["No effusion", "Clear lungs."]),
        ("1. 8 mm nodule. 2. 9 mm nodule.", ["8 mm nodule.", "9 mm nodule."]),
        ("1. Old scar at T8. 2. Fine.", ["Old scar at T8.", "Fine."]),
        ("Summary: 1. Big heart 2. Clear.", ["Summary:", "Big heart", "Clear."]),
        ("Clear.2. Big heart.", ["Clear.", "Big heart."]),
        (
            "Two (2) views. Fracture at level 5. The rest is fine.",
            ["Two (2) views.", "Fracture at level 5.", "The rest is fine."],
        ),
        ("Lungs are clear.No effusion.", ["Lungs are clear.", "No effusion."]),
        ("lungs are clear.no effusion", ["lungs are clear.", "no effusion"]),
        ("Known COPD.No effusion.", ["Known COPD.", "No effusion."]),
        ("Compared to XXXX. XXXX lines are seen.", ["Compared to XXXX.", "XXXX lines are seen."]),
        ("XXXX. ___ was told. ___.", ["XXXX.", "___ was told.", "___."]),
        ("The heart is\nbig. The lungs\r\nare clear.", ["The heart is big.", "The lungs are clear."]),
        ("Clear lungs\n\nBig heart", ["Clear lungs", "Big heart"]),
        ("- clear lungs\n- big heart", ["clear lungs", "big heart"]),
        ("Heart: big\nLungs: clear", ["Heart: big", "Lungs: clear"]),
        ("cardiomegali . sin derram .", ["cardiomegali .", "sin derram ."]),
        ("nodul 1 . 5 cm . sin derram .", ["nodul 1 . 5 cm .", "sin derram ."]),
        ("Clear..  Big heart ... but stable.", ["Clear..", "Big heart ... but stable."]),
        ('Lungs (see below). "Fine." Yes.', ["Lungs (see below).", '"Fine."', "Yes."]),
        ("", []),
        (" . .. ;- ", []),
    ],
)
def test_splits(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


def test_key_ignores_case_blanks_final_stops_and_unicode_forms() -> None:
    assert sentence_key("  The  LUNGS are\tclear. ") == sentence_key("the lungs are clear") == "the lungs are clear"
    assert sentence_key("sin derram .") == "sin derram"
    assert sentence_key("ﬁbrosis") == "fibrosis"  # a ligature
    assert sentence_key("Size 1.5 cm.") == "size 1.5 cm"
    assert sentence_key("No effusion") != sentence_key("No effusions")
    assert sentence_key("...") == ""


@given(st.text(alphabet=st.sampled_from("aB1. ?)(\n-;XÉ²_"), max_size=60))
def test_nothing_but_numbers_and_blanks_is_lost_and_keys_are_never_empty(text: str) -> None:
    sentences = split_sentences(text)
    assert all(sentence_key(sentence) for sentence in sentences)
    kept = "".join("".join(sentences).split())
    assert [c for c in kept if c.isalpha() or c == "_"] == [c for c in text if c.isalpha() or c == "_"]


@given(st.text(max_size=40))
def test_key_is_idempotent(text: str) -> None:
    assert sentence_key(sentence_key(text)) == sentence_key(text)


@given(st.text(max_size=200))
def test_any_text_splits_into_sentences_with_keys(text: str) -> None:
    assert all(sentence_key(sentence) for sentence in split_sentences(text))


def test_time_is_linear_in_the_length() -> None:
    def seconds(text: str) -> float:
        start = time.process_time()
        split_sentences(text)
        return time.process_time() - start

    for piece in ("No effusion 1.5 cm. ", "X 1. X", "x 1. X ", "1. ", ". ", "a.b.", "(", "X. 1 . 1 "):
        assert seconds(piece * 20_000) < 4.0, piece
