"""What the finetune job's report counts, which examples it shows, and what it warns of."""

import dataclasses

import numpy as np
import pytest
from finetune_report_world import SUMMARY, finetune_report

from raymedlt.evaluation.scores import evaluate
from raymedlt.finetuning.examples import Example, chosen, compared
from raymedlt.finetuning.report import DataReport, FindingCounts, Report, Scored
from raymedlt.finetuning.warnings import warnings_of
from raymedlt.intervals import Share

REFERENCES = ["Left nodule. Heart is normal.", "No pleural effusion.", "Scoliosis.", "No pleural effusion."]
COMPLETE = ["Left nodule. Scoliosis. Heart is normal.", "No pleural effusion. Emphysema.", *REFERENCES[2:]]
WRITTEN = ["Right nodule. Scoliosis.", "No pleural effusion.", "The heart is normal.", "the heart is normal"]


def scored(complete: bool) -> Scored:
    found = evaluate(WRITTEN, REFERENCES, list("abbc"), complete=COMPLETE if complete else None)
    return Scored.of(
        found, split="test", completions=WRITTEN, references=REFERENCES, cut=1, resamples=20, seed=0
    )  # fmt: skip


def test_findings_are_counted_against_the_truth():
    found = scored(complete=True)
    assert list(found.truth) == [("scoliosis", 1, 0, 1), ("emphysema", 0, 0, 1), ("nodule", 1, 0, 0)]
    assert list(found.findings) == [("nodule", 1, 0, 0), ("scoliosis", 0, 1, 1)]
    assert (found.total.hits, found.total.false, found.total.missed) == (2, 0, 2)
    assert (found.normal, found.normal_truth) == (Share(3, 4), Share(1, 4))
    assert (found.reports, found.patients, found.cut) == (4, 3, 1)
    assert (found.distinct, found.distinct_references) == (3, 3)  # spellings of one sentence are the same
    assert found.reference_words == (5 + 3 + 1 + 3) / 4
    assert found.main("micro_f1").estimate == pytest.approx(2 * 2 / (2 * 2 + 2))
    assert found.absent
    original = scored(complete=False)
    assert original.complete is None
    assert original.truth == original.findings
    assert original.normal_truth == Share(2, 4)
    assert original.main("micro_f1").estimate == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))


def test_rates_of_a_finding():
    one = FindingCounts("nodule", 3, 1, 5)
    assert (one.positives, one.claimed) == (8, 4)
    assert (one.precision, one.recall, one.f1) == (Share(3, 4), Share(3, 8), 0.5)
    nothing = FindingCounts("nodule", 0, 0, 0)
    assert (nothing.precision.value, nothing.f1) == (None, None)


def test_data_are_told_as_the_studies_were_arranged():
    found = DataReport.of(SUMMARY, words="w", phantom=True, use="random", form="findings")
    assert (found.studies["test"], found.taught, found.tokens["largest"]) == (320, 131, 97)


def test_training_knows_its_best_epoch_and_who_took_part():
    training = finetune_report().training
    assert training.kept is training.history[2]
    assert dataclasses.replace(training, keep="last").kept is training.history[-1]
    assert training.replicas == [2, 1, 2]
    assert not training.still_falling
    falling = dataclasses.replace(training, history=training.history[:3], epochs=3)
    assert falling.still_falling
    assert dataclasses.replace(training, history=()).kept is None


def test_the_test_split_is_the_one_that_figures_are_of():
    report, own = finetune_report(), scored(complete=True)
    validation = dataclasses.replace(own, split="validation")
    assert dataclasses.replace(report, scored=[validation, own]).main is own
    assert dataclasses.replace(report, scored=[validation]).main is validation
    assert dataclasses.replace(report, scored=[]).main is None


# Examples


def test_examples_do_not_depend_on_what_was_written_and_mostly_show_something():
    ids = [f"i{number}" for number in range(40)]
    truths = ["Cardiomegaly." if number < 10 else "No pleural effusion." for number in range(40)]
    places = chosen(ids, truths, most=8, seed=0)
    assert [place < 10 for place in places] == [True] * 6 + [False] * 2
    assert len(set(places)) == 8
    assert places == chosen(ids, truths, most=8, seed=0)
    assert places != chosen(ids, truths, most=8, seed=1)
    back = chosen(ids[::-1], truths[::-1], most=8, seed=0)
    assert [ids[place] for place in places] == [ids[::-1][place] for place in back]
    assert sorted(chosen(ids[:5], truths[:5], most=8, seed=0)) == list(range(5))
    assert len(chosen(ids[10:], truths[10:], most=8, seed=0)) == 8  # nothing has a finding
    assert [truths[place] for place in chosen(ids[9:], truths[9:], most=2, seed=0)].count("Cardiomegaly.") <= 2


def example(completion, reference, complete=""):
    image = np.zeros((8, 8), np.uint8)
    return Example(image_id="a", image_SS=image, completion=completion, reference=reference, complete=complete)


def test_sentences_are_compared_with_what_is_so():
    found = compared(
        example(
            "Mild cardiomegaly. Right pleural effusion. No scoliosis. Calcified granuloma. no pneumothorax",
            "The heart is enlarged. Left pleural effusion. No pneumothorax.",
            "The heart is enlarged. Left pleural effusion. No pneumothorax. Scoliosis. No rib fracture.",
        )
    )
    heart, effusion, spine, granuloma, air = found.written
    assert heart.right == ("cardiomegaly",)
    assert not heart.same
    assert (effusion.side, effusion.right, effusion.wrong) == (("pleural effusion",), (), ())
    assert spine.denied == ("scoliosis",)
    assert granuloma.wrong == ("granuloma",)
    assert air.same
    assert [each.missed for each in found.reference] == [(), (), ()]
    assert [each.same for each in found.reference] == [False, False, True]
    assert [(each.text, each.claims) for each in found.left_out] == [("Scoliosis.", True), ("No rib fracture.", False)]
    assert found.left_out[0].missed == ("scoliosis",)
    assert (found.found, found.side) == (("cardiomegaly",), ("pleural effusion",))
    assert (found.missed, found.wrong) == (("scoliosis",), ("granuloma",))


def test_both_sides_hold_one_side_and_a_side_left_open_is_no_mistake():
    assert compared(example("Bilateral pleural effusions.", "Left pleural effusion.")).found == ("pleural effusion",)
    assert compared(example("Pleural effusion.", "Left pleural effusion.")).found == ("pleural effusion",)
    assert compared(example("Left pleural effusion.", "Pleural effusion.")).found == ("pleural effusion",)


def test_without_a_complete_text_nothing_was_left_out():
    found = compared(example("", "Cardiomegaly."))
    assert (found.written, found.left_out, found.missed) == ((), (), ("cardiomegaly",))


# Warnings


def changed(**changes: object) -> Report:
    report = finetune_report()
    return dataclasses.replace(report, scored=[dataclasses.replace(report.scored[0], **changes)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"normal": Share(230, 320)},
            "72\u00a0% of the written reports claim no finding, but only 48\u00a0% of complete",
        ),
        ({"distinct": 1}, "320 images got 1 different report; the original reports have"),
        ({"cut": 40}, "12\u00a0% of the written reports end in the middle"),
        ({"reports": 40, "patients": 1, "cut": 0}, "Only 40 reports of 1 patient scored"),
        ({"complete": [FindingCounts("hernia", 0, 0, 31)]}, "Never found, though 30 or more images show it: hernia"),
        ({"complete": [FindingCounts("hernia", 5, 0, 0)]}, "1 finding with fewer than 30 positives: hernia"),
    ],
)
def test_what_scores_warn_of(changes, words):
    assert words not in " ".join(warnings_of(finetune_report()))
    assert words in " ".join(warnings_of(changed(**changes)))


def test_what_the_run_warns_of():
    report = finetune_report()
    usual = " ".join(warnings_of(report))
    assert usual.startswith("Not for diagnosis")
    for words in ("made by code", "16 findings with fewer than 30", "2 rows rejected"):
        assert words in usual
    for change, words in (
        ({"blind": True}, "same grey square"),
        ({"scored": []}, "No report was scored"),
        (
            {"training": dataclasses.replace(report.training, sees_first=True, seeing=())},
            "The vision encoder learnt nothing",
        ),
        ({"data": dataclasses.replace(report.data, learnt_from_held_out=3)}, "3 validation or test reports had a part"),
        (
            {"training": dataclasses.replace(report.training, history=report.training.history[:3], epochs=3)},
            "still falling at the last of 3 epochs",
        ),
    ):
        assert words not in usual
        assert words in " ".join(warnings_of(dataclasses.replace(report, **change)))
    real = dataclasses.replace(report, data=dataclasses.replace(report.data, phantom=False))
    assert "made by code" not in " ".join(warnings_of(real))
