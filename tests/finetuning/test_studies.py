"""Reports beside their images: what is joined, what is rejected, and that only training texts can change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from studies_world import DATA, cohort_reports, examples_for, made, words, world

from raymedlt.errors import ConsistencyError
from raymedlt.finetuning.studies import Studies, check_references, count_tokens, in_splits, join
from raymedlt.images.phantom_cohort import cohort
from raymedlt.schema import SPLITS, STUDIES, TEST, TRAIN, VALIDATION


def test_the_phantoms_reports_are_those_of_its_images():
    own = DATA.phantom
    drawn = cohort(
        own.images, seed=0, classes=own.classes, test_images=own.test_images, test_positives=0, pick=own.pick
    ).table.sort_by("image_id")
    reports = cohort_reports()
    for ours, theirs in (("findings", "text_findings"), ("impression", "text_impression"), ("report_id", "image_id")):
        assert reports[ours].to_pylist() == drawn[theirs].to_pylist()
    assert reports["complete_findings"].to_pylist() == drawn["complete_findings"].to_pylist()
    assert set(reports["split"].to_pylist()) == set(SPLITS)


def test_a_study_is_its_image_and_its_report():
    studies, examples = world()
    reports = {row["image_id"]: row for row in cohort_reports().to_pylist()}
    assert len(studies) > 130
    for n in range(len(studies)):
        row = reports[studies.image_ids[n]]
        assert examples.image_ids[studies.image_rows[n]] == row["image_id"]
        assert studies.targets[n] == (row["findings"],) == (studies.reference_findings[n],)
        assert studies.patient_ids[n] == row["patient_id"]
        assert studies.splits[n] == examples.splits[studies.image_rows[n]]
        assert studies.tokens[n] == (len(row["findings"].split()),)


def test_the_images_splits_count():
    reports = made(6)  # a source without splits
    splits = [TRAIN, TEST, TRAIN, VALIDATION, TRAIN, TRAIN]
    examples = examples_for(reports, splits)
    joined = join(in_splits(reports, examples), examples, {}, "findings", "reports")
    assert joined.studies.splits.tolist() == splits
    assert joined.studies.of(TRAIN).tolist() == [0, 2, 4, 5]


def test_rows_in_are_rows_out_and_rejected():
    reports = made(5, findings=["a", " \n", "c", "d", ""], impression=["i", "i", "", " ", ""])
    examples = examples_for(reports)
    for form, reasons in (
        ("findings", {"r01": "no findings", "r04": "no findings"}),
        ("think_answer", {"r01": "no findings", "r02": "no impression", "r03": "no impression", "r04": "no findings"}),
    ):
        studies, rejected = join(in_splits(reports, examples), examples, {}, form, "the source")
        assert dict(zip(rejected["row_id"].to_pylist(), rejected["reason"].to_pylist(), strict=True)) == reasons
        assert set(rejected["source"].to_pylist()) == {"the source"}
        assert sorted([*studies.report_ids, *reasons]) == reports["report_id"].to_pylist()
        assert [examples.image_ids[row] for row in studies.image_rows] == studies.image_ids.tolist()


def test_images_that_could_not_be_prepared_have_no_study():
    reports = made(4)
    examples = examples_for(made(4).filter(pa.array([True, False, True, True])))
    studies = join(in_splits(reports, examples), examples, {}, "findings", "").studies
    assert studies.report_ids.tolist() == ["r00", "r02", "r03"]
    assert studies.image_rows.tolist() == [0, 1, 2]


def test_an_image_without_a_report_is_a_bug():
    with pytest.raises(ConsistencyError, match=r"1 prepared images without a report\. Expected: the images of these"):
        in_splits(made(3), examples_for(made(4)))
    with pytest.raises(ConsistencyError, match="reports in another order than the images"):
        join(made(3).sort_by([("image_id", "descending")]), examples_for(made(3)), {}, "findings", "")


def test_only_training_texts_change():
    reports = made(4, split=[TRAIN, VALIDATION, TEST, TRAIN])
    examples = examples_for(reports)
    variants = {name: ("first", "second") for name in ("r00", "r01", "r02")}
    studies = join(in_splits(reports, examples), examples, variants, "findings", "").studies
    assert studies.targets == (("first", "second"), ("Heart r01.",), ("Heart r02.",), ("Heart r03.",))
    assert studies.reference_findings[0] == "Heart r00."
    assert studies.training_texts() == ["first", "second", "Heart r03."]
    check_references(studies, "findings")
    for wrong in (("changed",), ("Heart r01.", "more")):
        broken = replace(studies, targets=(studies.targets[0], wrong, *studies.targets[2:]))
        with pytest.raises(ConsistencyError, match=r"texts that are not the original reports: 1 of validation"):
            check_references(broken, "findings")


def test_findings_change_inside_think_and_impressions_stay():
    reports = made(1)
    examples = examples_for(reports)
    studies = join(in_splits(reports, examples), examples, {"r00": ("More.",)}, "think_answer", "").studies
    assert studies.targets == (("<think> More. </think><answer> Normal r00. </answer>",),)


def test_training_texts_that_are_too_long_are_rejected_not_cut():
    reports = made(4, findings=["a b c d", "a b c d", "a b c", "a"], split=[TRAIN, TEST, TRAIN, TRAIN])
    examples = examples_for(reports)
    joined = join(in_splits(reports, examples), examples, {"r03": ("a", "a b c d e")}, "findings", "")
    studies, rejected = count_tokens(joined.studies, words, 3, "src")
    assert studies.report_ids.tolist() == ["r01", "r02"]  # a reference may have any length
    assert studies.tokens == ((4,), (3,))
    assert rejected.to_pylist() == [
        {"row_id": "r00", "source": "src", "reason": "too long: a text of 4 tokens"},
        {"row_id": "r03", "source": "src", "reason": "too long: a text of 5 tokens"},
    ]


def test_studies_survive_their_table():
    studies = world({"p0000003_0": ("one", "two")})[0]
    table = studies.table()
    assert table.schema == STUDIES
    back = Studies.of_table(table)
    assert back.table().equals(table)
    assert back.targets == studies.targets
    assert ("one", "two") in back.targets
    np.testing.assert_array_equal(back.image_rows, studies.image_rows)
    assert back.image_rows.dtype == np.int64
    assert back.report_ids.dtype == object
    assert Studies.of_table(studies.take(np.zeros(0, np.int64)).table()).image_rows.dtype == np.int64


def test_some_of_the_studies():
    studies = world()[0]
    some = studies.take(np.array([5, 2]))
    assert some.report_ids.tolist() == [studies.report_ids[5], studies.report_ids[2]]
    assert some.targets == (studies.targets[5], studies.targets[2])
    assert len(some) == 2
