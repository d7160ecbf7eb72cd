"""Appending and stripping: the original stays, byte for byte, and sentences stay apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymedlt.enrichment.text import append, finished, strip_additions
from raymedlt.reports.sentences import sentence_key, split_sentences

ENDINGS = [
    "",
    ".",
    " ",
    ". ",
    "\n",
    ".\n",
    "  \n",
    "!",
    "?",
    ")",
    ".)",
    " .",
    "\u00a0",
    "\r\n",
    ",",
    ";",
    ":",
    "5 cm",
    "XXXX",
]
DONORS = ["no pleural effusion", "Heart size is normal."]


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_original_is_a_prefix_and_comes_back(ending: str):
    findings = "The lungs are clear" + ending
    enriched = append(findings, DONORS)
    assert enriched.startswith(findings)
    assert strip_additions(findings, enriched) == findings
    assert enriched.endswith("No pleural effusion. Heart size is normal.")


@pytest.mark.parametrize("ending", ENDINGS)
def test_sentences_stay_apart(ending: str):
    findings = "No pneumothorax. The lungs are clear" + ending
    keys = [sentence_key(sentence) for sentence in split_sentences(append(findings, DONORS))]
    own = [sentence_key(sentence) for sentence in split_sentences(findings)]
    assert keys == [*own, "no pleural effusion", "heart size is normal"]


@pytest.mark.parametrize(
    ("findings", "joint"),
    [
        ("Clear lungs.", " "),
        ("Clear lungs", ". "),
        ("Clear lungs. ", ""),
        ("Clear lungs.\n", ""),
        ("Clear lungs\n", ". "),
        ("Clear lungs?", " "),
        ("", ""),
    ],
)
def test_what_stands_between(findings: str, joint: str):
    assert append(findings, ["no effusion"]) == f"{findings}{joint}No effusion."


def test_nothing_added_changes_nothing():
    assert append("Clear lungs", []) == "Clear lungs"


@pytest.mark.parametrize(
    ("sentence", "written"),
    [
        ("no effusion", "No effusion."),
        ("  No effusion . ", "No effusion."),
        ("no effusion..", "No effusion."),
        ("no effusion,", "No effusion."),
        ("is it clear?", "Is it clear?"),
        ("Clear!", "Clear!"),
    ],
)
def test_finished(sentence: str, written: str):
    assert finished(sentence) == written


@given(st.text(max_size=60), st.lists(st.sampled_from(DONORS), max_size=3))
def test_any_text_comes_back(findings: str, donors: list[str]):
    assert strip_additions(findings, append(findings, donors)) == findings
