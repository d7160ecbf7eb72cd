"""The two forms of a target; what is read back is what was written."""

from __future__ import annotations

from studies_world import cohort_reports

from raymedlt.evaluation.answers import split_answer
from raymedlt.finetuning.texts import target_text


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
