"""The two forms of a target, and reading back what a model wrote."""

from __future__ import annotations

import pytest
from studies_world import cohort_reports

from raymedlt.finetuning.texts import split_answer, target_text


def test_findings_alone():
    assert target_text(" The lungs are clear. ", "Normal.", "findings") == "The lungs are clear."


def test_the_form_of_the_paper():
    written = target_text("The lungs are clear.\n", " Normal chest.", "think_answer")
    assert written == "<think> The lungs are clear. </think><answer> Normal chest. </answer>"
    assert split_answer(written) == ("The lungs are clear.", "Normal chest.")


def test_every_phantom_report_comes_back():
    table = cohort_reports()
    for findings, impression in zip(table["findings"].to_pylist(), table["impression"].to_pylist(), strict=True):
        assert split_answer(target_text(findings, impression, "think_answer")) == (findings, impression)
        assert split_answer(target_text(findings, impression, "findings")) == (findings, "")


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("", ("", "")),
        ("Heart < 50 %, a > b.", ("Heart < 50 %, a > b.", "")),
        ("<think>a</think><answer>b</answer>", ("a", "b")),
        ("< think > a < / think > < answer > b < / answer >", ("a", "b")),  # as a tokenizer may write it
        ("<think> a </think><answer> b", ("a", "b")),  # broke off
        ("<think> a <answer> b </answer>", ("a", "b")),  # the first end was forgotten
        ("<think> a", ("a", "")),
        ("<answer> b </answer>", ("", "b")),
        ("<answer> b </answer><think> a </think>", ("a", "b")),
        ("so: <think> a </think> and <answer> b </answer> done", ("a", "b")),
        ("<think> a </think><think> c </think><answer> b </answer>", ("a", "b")),
        ("</think>", ("", "")),
    ],
)
def test_what_a_model_may_write(completion, expected):
    assert split_answer(completion) == expected
