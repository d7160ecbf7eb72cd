"""The phantom: the same id gives the same image, findings show where they should, cohorts follow the label table."""

from __future__ import annotations

import hashlib
import importlib.metadata
from itertools import pairwise

import numpy as np
import pyarrow.compute as pc
import pytest

from raymedlt.errors import ConfigError, InputError, MissingDependencyError
from raymedlt.images import phantom_labels, phantom_shape
from raymedlt.images.phantom import FINDINGS, PHANTOM_LABELS, Finding, cohort, draw, label_sets, text
from raymedlt.images.phantom_nuisance import view_of
from raymedlt.images.phantom_text import _phrases, positive
from raymedlt.reports.assertion import judge
from raymedlt.reports.sentences import split_sentences
from raymedlt.schema import IMAGE_LABELS


def _has_package():
    try:
        importlib.metadata.distribution("torchxrayvision")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_tables = pytest.mark.skipif(not _has_package(), reason="the package torchxrayvision isn't installed")


def _side(name, side="left"):
    sides = FINDINGS[name].sides
    return side if side in sides else (sides[0] if sides else "")


def _change(finding, patient, size=64):
    """What the finding changes: absolute differences of grey levels. In a view that the finding doesn't change."""
    image_ids = (f"{patient}_{i}" for i in range(100))
    image_id = next(each for each in image_ids if view_of(3, each, True) == view_of(3, each, False))
    bare = draw([], seed=3, image_id=image_id, size=size).astype(float)
    return np.abs(draw([finding], seed=3, image_id=image_id, size=size) - bare)


# Drawing


def test_same_image_whatever_was_drawn_before():
    first = draw([Finding("Nodule", "left", 0.6)], seed=1, image_id="a_0")
    draw([Finding("Pneumonia", "both", 0.9)], seed=2, image_id="b_0", size=96)
    assert np.array_equal(first, draw([Finding("Nodule", "left", 0.6)], seed=1, image_id="a_0"))
    assert first.shape == (64, 64)
    assert first.dtype == np.uint8


def test_seed_and_id_change_the_image_and_order_does_not():
    findings = [Finding("Nodule", "left", 0.6), Finding("Cardiomegaly", "", 0.4)]
    image = draw(findings, seed=1, image_id="a")
    assert np.array_equal(image, draw(findings[::-1], seed=1, image_id="a"))
    assert not np.array_equal(image, draw(findings, seed=2, image_id="a"))
    assert not np.array_equal(image, draw(findings, seed=1, image_id="b"))


def test_images_of_one_patient_show_one_chest():
    one, two, other = (draw([], seed=0, image_id=name, size=64).astype(float) for name in ("k_0", "k_1", "m_0"))
    inner = (slice(10, 54), slice(10, 54))
    same = np.corrcoef(one[inner].ravel(), two[inner].ravel())[0, 1]
    assert same > np.corrcoef(one[inner].ravel(), other[inner].ravel())[0, 1]
    assert not np.array_equal(one, two)


def test_one_picture_at_every_size():
    large = draw([Finding("Mass", "right", 0.8)], seed=0, image_id="s", size=128).astype(float)
    small = draw([Finding("Mass", "right", 0.8)], seed=0, image_id="s", size=64).astype(float)
    means = large.reshape(64, 2, 64, 2).mean((1, 3))
    assert np.corrcoef(means.ravel(), small.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("name", FINDINGS)
def test_every_finding_shows_and_more_with_severity(name):
    mild, severe = (
        np.mean([_change(Finding(name, _side(name), level), f"v{i}", 96).mean() for i in range(3)])
        for level in (0.15, 1.0)
    )
    assert mild > 0.005
    assert severe > 1.15 * mild


ONE_SIDED = [name for name, kind in FINDINGS.items() if {"left", "right"} <= set(kind.sides) and name != "Scoliosis"]


@pytest.mark.parametrize("name", ONE_SIDED)
def test_the_patients_right_is_the_images_left(name):
    right, left = (
        np.mean([_change(Finding(name, side, 0.7), f"w{i}").mean(0) for i in range(3)], axis=0)
        for side in ("right", "left")
    )
    assert right[:30].sum() > 1.3 * right[34:].sum()
    assert left[34:].sum() > 1.3 * left[:30].sum()


def test_effusion_lies_at_the_base_and_pneumothorax_above():
    effusion = _change(Finding("Pleural effusion", "left", 0.4), "x")
    assert effusion[32:].sum() > 5 * effusion[:32].sum()
    apical = _change(Finding("Apical pleural thickening", "right", 0.6), "x")
    assert apical[:32].sum() > 5 * apical[32:].sum()


def test_cardiomegaly_widens_the_heart_alone():
    change = _change(Finding("Cardiomegaly", "", 0.8), "y")
    assert change[30:52].mean() > 4 * change[5:20].mean()


def test_grey_levels_are_those_of_chest_x_rays():
    images = np.stack([draw([], seed=0, image_id=f"g{i}") for i in range(40)]).astype(float)
    assert 110 < images.mean() < 160  # 1,528 real images (NIH): mean 135, spread within an image 58
    assert 45 < images.std((1, 2)).mean() < 75


def test_analytic_lungs_where_there_are_no_masks(monkeypatch):
    monkeypatch.setattr(phantom_shape, "_archive", lambda: None)
    phantom_shape.mask_names.cache_clear()
    phantom_shape.outline.cache_clear()
    try:
        change = _change(Finding("Pleural effusion", "left", 0.5), "z")
        assert change[32:, 32:].sum() > 5 * change[:, :28].sum()
    finally:
        monkeypatch.undo()
        phantom_shape.mask_names.cache_clear()
        phantom_shape.outline.cache_clear()


@needs_tables
def test_real_outlines_are_lungs():
    outline = phantom_shape.outline(7)
    assert outline.lateral.shape == (2, phantom_shape.ROWS)
    assert (outline.lateral[:, 10:] > outline.medial[:, 10:] + 0.3).all()
    assert 1.3 < outline.aspect < 2.1
    assert phantom_shape.measure(np.zeros((192, 160), np.bool_)) is None


@pytest.mark.parametrize(
    ("name", "side", "severity"),
    [("Cold", "", 0.5), ("Mass", "both", 0.5), ("Mass", "", 0.5), ("Sternotomy", "left", 0.5), ("Nodule", "left", 0.0)],
)
def test_bad_findings_are_refused(name, side, severity):
    with pytest.raises(InputError):
        Finding(name, side, severity)


def test_bad_size_is_refused():
    with pytest.raises(InputError, match=r"images\.size"):
        draw([], seed=0, image_id="a", size=8)


# Cohort


@pytest.fixture(scope="module")
def padchest():
    return cohort(20_000, seed=5, classes=25, test_images=500, test_positives=60, texts=False)


@needs_tables
def test_cohort_follows_the_table(padchest):
    table = padchest.table
    assert table.schema.equals(PHANTOM_LABELS)
    assert table.schema.names[: len(IMAGE_LABELS)] == IMAGE_LABELS.names
    drawn = [row for row in table.select(["labels", "split"]).to_pylist() if row["split"] != "test"]
    assert len(drawn) == 20_000
    shown = np.array([[name in row["labels"] for name in padchest.classes] for row in drawn], float)
    wanted = padchest.source.frequencies
    assert (np.diff(wanted) <= 0).all()
    assert np.corrcoef(np.argsort(np.argsort(shown.mean(0))), np.argsort(np.argsort(wanted)))[0, 1] > 0.97
    assert np.abs(shown.mean(0) - wanted).max() < 0.012
    weights = padchest.source.counts / padchest.source.counts.sum()
    together = (padchest.source.sets * weights[:, None]).T @ padchest.source.sets
    assert np.abs(shown.T @ shown / len(shown) - together).max() < 0.012


@needs_tables
def test_tail_is_topped_up_in_the_test_part_alone(padchest):
    table = padchest.table
    test = table.filter(pc.equal(table["split"], "test"))
    for name in padchest.classes:
        assert sum(name in labels for labels in test["labels"].to_pylist()) >= 60
    assert test.filter(pc.invert(test["topped_up"])).num_rows == 500
    rest = table.filter(pc.not_equal(table["split"], "test"))
    assert not pc.any(rest["topped_up"]).as_py()


@needs_tables
def test_patients_are_in_one_split_and_keep_their_findings(padchest):
    rows = padchest.table.select(["image_id", "patient_id", "split", "findings"]).to_pylist()
    splits = {}
    for row in rows:
        assert splits.setdefault(row["patient_id"], row["split"]) == row["split"]
        assert row["image_id"].partition("_")[0] == row["patient_id"]
    assert len({row["image_id"] for row in rows}) == len(rows)
    share = np.mean([split == "validation" for split in splits.values() if split != "test"])
    assert 0.085 < share < 0.115
    pairs = [(a, b) for a, b in pairwise(rows) if a["patient_id"] == b["patient_id"]]
    assert len(pairs) > 3_000
    where = [{each["name"]: each["side"] for each in row["findings"]} for pair in pairs for row in pair]
    for one, two in zip(where[::2], where[1::2], strict=True):
        assert all(one[name] == two[name] for name in one.keys() & two.keys())
    assert np.mean([one.keys() == two.keys() for one, two in zip(where[::2], where[1::2], strict=True)]) > 0.75


@needs_tables
def test_cohort_columns_agree_and_draw(padchest):
    for row in (1, 500, padchest.table.num_rows - 1):
        findings = padchest.findings(row)
        assert [each.name for each in findings] == padchest.table["labels"][row].as_py()
        assert all(0.05 <= each.severity <= 1 for each in findings)
        draw(findings, seed=5, image_id=padchest.table["image_id"][row].as_py())


@needs_tables
def test_same_cohort_again_and_a_larger_one_begins_alike():
    few, again, more = (cohort(n, seed=9, classes=8, test_images=20, test_positives=3) for n in (60, 60, 90))
    assert few.table.equals(again.table)
    assert few.table.slice(0, 60).equals(more.table.slice(0, 60))
    assert not few.table.equals(cohort(60, seed=10, classes=8, test_images=20, test_positives=3).table)


@needs_tables
@pytest.mark.parametrize(("prevalence", "least"), [("nih14", 14), ("openi", 30)])
def test_other_tables(prevalence, least):
    source = label_sets(prevalence, 99)
    assert len(source.names) >= least
    assert source.frequencies.max() < 0.3
    spread = label_sets(prevalence, 6, "spread")
    assert len(spread.names) == 6
    assert spread.names[0] == source.names[0]
    assert spread.names[-1] == source.names[-1]


@needs_tables
def test_every_label_of_the_findings_table_is_in_its_label_table():
    for prevalence, rows in (("padchest", phantom_labels._padchest), ("nih14", phantom_labels._nih14)):
        known = {label for labels in rows() for label in labels or ()}
        assert {label for kind in FINDINGS.values() for label in kind.labels[prevalence]} <= known


def test_missing_table_says_what_to_install(monkeypatch):
    def gone(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", gone)
    phantom_labels._counted.cache_clear()
    with pytest.raises(MissingDependencyError, match="torchxrayvision"):
        label_sets("padchest", 5)


def test_empty_cohort_is_refused():
    with pytest.raises(ConfigError):
        cohort(0, seed=0)


# Text


def _all_findings(name):
    sides = FINDINGS[name].sides or ("",)
    return [Finding(name, side, level) for side in sides for level in (0.1, 0.5, 0.9)]


@pytest.mark.parametrize("name", FINDINGS)
def test_the_assertion_rules_read_every_phrase(name):
    for finding in _all_findings(name):
        for choice in range(6):
            sentence = positive(finding, choice)
            assert "  " not in sentence
            assert judge(sentence, language="en").sign == "abnormal", sentence
            words = {"left": "left", "right": "right", "both": ("bi", "both", "Both", "Bi")}
            if finding.side in ("left", "right") and name != "Scoliosis":
                assert words[finding.side] in sentence.lower()
    for template in _phrases().get((name, "negative"), []):
        assert judge(template, language="en").sign == "normal", template


def test_general_statements_are_normal():
    for key in (("lungs", "clear"), ("everything", "normal")):
        for template in _phrases()[key]:
            assert judge(template, language="en").sign == "normal", template
    assert judge("No pleural effusion or pneumothorax.", language="en").sign == "normal"


def test_text_is_the_complete_text_less_what_is_omitted():
    left_out = 0
    for i in range(200):
        findings = [Finding("Pleural effusion", "right", 0.2), Finding("Cardiomegaly", "", 0.5)] if i % 2 else []
        report = text(findings, seed=0, image_id=f"t{i}")
        assert report == text(findings, seed=0, image_id=f"t{i}")
        said, complete = split_sentences(report.findings), split_sentences(report.complete_findings)
        joined = "No pleural effusion or pneumothorax."
        if joined in complete:  # one sentence for two denials: each may also be said alone
            complete += _phrases()["Pleural effusion", "negative"] + _phrases()["Pneumothorax", "negative"]
        assert set(said) <= {joined, *complete}
        assert len(set(report.omitted)) == len(report.omitted)
        positives = [s for s in said if judge(s, language="en").sign == "abnormal"]
        missing = {each.name for each in findings} & set(report.omitted)
        assert len(positives) == len(findings) - len(missing)
        left_out += len(missing)
        if missing == {each.name for each in findings} and findings:
            assert report.impression == ""
        if "Pleural effusion" in missing:
            assert "effusion" not in report.impression
        assert judge(report.impression, language="en").sign in ("neutral", "abnormal" if findings else "normal")
    assert 5 < left_out < 60


def test_absence_is_not_stated_beside_what_brings_it_about():
    for i in range(30):
        complete = text([Finding("Pleural effusion", "left", 0.9)], seed=0, image_id=f"n{i}").complete_findings
        assert "sharp" not in complete
        assert "No blunting" not in complete


# Golden images: they freeze the phantom. A change here makes every earlier result on phantoms another one.

GOLDEN = {
    "normal": ([], 64, "d2a60b210741c06d"),
    "effusion": ([Finding("Pleural effusion", "right", 0.5)], 64, "b6294a58186b3164"),
    "many": (
        [Finding("Cardiomegaly", "", 0.6), Finding("Pacemaker", "left", 0.7), Finding("Nodule", "right", 0.8)],
        128,
        "560d368257fedd0b",
    ),
}


@needs_tables
@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case):
    findings, size, expected = GOLDEN[case]
    image = draw(findings, seed=0, image_id=f"golden-{case}_0", size=size)
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == expected
