"""The guard: a donor against what a report says. All sentences are written for these tests."""

from __future__ import annotations

import pytest

from raymedlt.enrichment import guard
from raymedlt.enrichment.writing import report_claims
from raymedlt.reports.assertion import judge
from raymedlt.reports.sentences import sentence_key, split_sentences


def verdict(donor: str, findings: str = "", impression: str = "", indication: str = "") -> str | None:
    """Why the donor may not join the report; None if it may."""
    keys = [sentence_key(sentence) for sentence in split_sentences(findings)]
    return guard.refusal(guard.signature(sentence_key(donor), "en"), report_claims(keys, impression, indication, "en"))


@pytest.mark.parametrize(
    ("donor", "findings"),
    [
        ("No pleural effusion.", "There is a small pleural effusion."),
        ("No pleural effusion.", "There may be a small pleural effusion."),
        ("No pleural effusion.", "A pleural effusion cannot be excluded."),
        ("No pleural effusion.", "Small left pleural effusion."),
        ("No pleural effusion.", "Bilateral pleural effusions."),
        ("Heart size is normal.", "Stable cardiomegaly."),
        ("Heart size is normal.", "The heart is enlarged. No effusion."),
        ("The lungs are clear.", "Right lower lobe pneumonia."),  # a kind of what is denied
        ("No pneumonia.", "There is a focal lung abnormality."),  # what is denied is a kind of it
        ("No infiltrate.", "Patchy consolidation at the base."),  # one shadow, two words
        ("No pneumothorax.", "Trace apical pneumothorax on the right."),
        ("No acute bony abnormality.", "Acute fracture of a rib."),
    ],
)
def test_contradictions_are_refused(donor: str, findings: str):
    assert str(verdict(donor, findings)).startswith("contradicts:")


def test_contradictions_of_the_impression_count():
    assert verdict("No pleural effusion.", "Heart size is normal.", "Small effusion.") == "contradicts:pleural_effusion"


@pytest.mark.parametrize(
    ("indication", "refused"),
    [
        ("History of pneumonia.", True),
        ("Known pneumonia.", True),
        ("Evaluate for pneumonia.", False),
        ("Rule out pneumonia.", False),
        ("?pneumonia", False),
        ("Cough and fever.", False),
        ("", False),
    ],
)
def test_an_indication_asserts_by_history_not_by_question(indication: str, refused: bool):
    assert (verdict("No pneumonia.", indication=indication) == "contradicts:pneumonia") is refused


@pytest.mark.parametrize(
    ("donor", "findings", "refused"),
    [
        ("No left pleural effusion.", "Left pleural effusion.", True),
        ("No left pleural effusion.", "Right pleural effusion.", False),
        ("No left pleural effusion.", "Pleural effusion.", True),
        ("No right pleural effusion.", "Bilateral pleural effusions.", True),
    ],
)
def test_sides(donor: str, findings: str, refused: bool):
    assert (verdict(donor, findings) is not None) is refused


@pytest.mark.parametrize(
    ("donor", "findings"),
    [
        ("No pleural effusion.", "There is no pleural effusion."),
        ("There is no effusion.", "No pneumothorax or pleural effusion."),
        ("Heart size is normal.", "Normal heart size."),
        ("No pneumonia.", "The lungs are clear."),  # more was said already
    ],
)
def test_restatements_are_refused(donor: str, findings: str):
    assert str(verdict(donor, findings)).startswith("restates:")


def test_restating_the_impression_counts():
    assert verdict("No pneumothorax.", "Heart size is normal.", "No pneumothorax.") == "restates:pneumothorax"


@pytest.mark.parametrize(
    ("donor", "findings"),
    [
        ("No pleural effusion.", "Heart size is normal."),
        ("No pleural effusion.", "The heart is enlarged."),
        ("Heart size is normal.", "Small pleural effusion. No pneumothorax."),
        ("No pneumothorax.", ""),
        ("No acute bony abnormality.", "Calcified granuloma of the lung."),
    ],
)
def test_other_statements_may_join(donor: str, findings: str):
    assert verdict(donor, findings) is None


def test_contradiction_weighs_more_than_restatement():
    assert verdict("No effusion.", "No pleural effusion. Small left effusion.") == "contradicts:pleural_effusion"


@pytest.mark.parametrize(
    ("sentence", "flag"),
    [
        ("No nodule above 4 mm.", "unfit"),
        ("No effusion since 3/4/2011.", "unfit"),
        ("No effusion at XXXX.", "unfit"),
        ("No effusion seen by ___.", "unfit"),
        ("No new infiltrate.", "unfit"),
        ("Unchanged heart size, which is normal.", "unfit"),
        ("No pneumothorax after removal of the chest tube.", "unfit"),
        ("No left pleural effusion.", "unfit:one_sided"),
        ("The right lung is clear.", "unfit:one_sided"),
        ("PA and lateral views of the chest.", "unfit"),
        ("The patient stands upright.", "unfit"),
        ("There is an effusion.", "unfit:says_nothing"),
        ("No effusion No pneumothorax.", "unfit"),
    ],
)
def test_unfit_for_any_report(sentence: str, flag: str):
    assert str(guard.unfit(judge(sentence), sentence)).startswith(flag)


@pytest.mark.parametrize(
    "sentence",
    [
        "No pleural effusion.",
        "Heart size is normal.",
        "No pleural effusion or pneumothorax.",
        "The lungs are clear.",
        "The lungs are clear bilaterally.",
        "No acute bony abnormality.",
    ],
)
def test_fit_sentences(sentence: str):
    assert guard.unfit(judge(sentence), sentence) is None


def test_claims_add_up():
    one, other = guard.Claims(0b01, 0b10), guard.Claims(0b100, 0b10)
    assert one | other == guard.Claims(0b101, 0b10)


def test_bilateral_is_no_side():
    assert guard.claim_bit("pleural_effusion", "bilateral") == guard.claim_bit("pleural_effusion", "")
    assert len({guard.claim_bit("pleural_effusion", side) for side in guard.SIDES}) == 3


def test_signature_holds_denials_only():
    signature = guard.signature("no pleural effusion, but the heart is enlarged", "en")
    assert [denial[0] for denial in signature.denials] == ["pleural_effusion"]
    assert signature.clash & guard.claim_bit("pleural_effusion", "left")
    assert not signature.clash & guard.claim_bit("cardiomegaly")
