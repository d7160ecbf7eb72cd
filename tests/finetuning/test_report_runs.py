"""Reports of a finished run of jobs/enrich.py with the images in a folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pytest
from report_run_world import REPORTS, finished

from raymedlt.errors import ConfigError, ConsistencyError, InputError
from raymedlt.finetuning.report_runs import ImageFiles, ReportRun, open_reports
from raymedlt.schema import IMAGE_LABELS, TRAIN

FILES = ["one.png", "two.png", "deep/three.jpg", "other/four.jpeg", "six.png", "labels.csv", "README.md"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ReportRun:
    return open_reports(finished(tmp_path_factory.mktemp("run"), variants=2), "enriched")


def test_reports_and_their_images(run):
    source = run.source(FILES)
    assert source.images.schema == IMAGE_LABELS
    rows = {row["image_id"]: row for row in source.images.to_pylist()}
    assert {name: (row["study_id"], row["path"]) for name, row in rows.items()} == {
        "one": ("a", "one.png"), "two.png": ("b", "two.png"), "deep/three": ("c", "deep/three.jpg"),
        "six.dcm": ("f", "six.png"),
    }  # fmt: skip
    assert {row["split"] for row in rows.values()} == {"train", "test"}
    assert rows["deep/three"]["patient_id"] == "3"
    reasons = {row["row_id"]: row["reason"] for row in source.rejected.to_pylist()}
    assert reasons == {"d": "no image id", "e": "image of another report"}
    assert len(rows) + len(reasons) == REPORTS.num_rows
    assert source.images["image_id"].to_pylist() == sorted(rows)


def test_image_reports_lie_beside_their_images(run):
    images = run.source(FILES).images
    reports = run.image_reports(images)
    assert reports["report_id"].to_pylist() == images["study_id"].to_pylist()
    assert reports["image_id"].to_pylist() == images["image_id"].to_pylist()
    assert set(reports["complete_findings"].to_pylist()) == {""}


def test_without_any_image_there_is_nothing_to_do(run):
    with pytest.raises(InputError, match=r"none of 6 reports of '.*' has an image file\. Expected: image ids that are"):
        run.source(["labels.csv", "else.png"])


def test_variants_of_training_reports(run):
    assert run.variants("original") == {}
    taught = run.variants("enriched")
    training = REPORTS.filter(pc.equal(REPORTS["split"], TRAIN))
    assert dict(taught) == {
        row["report_id"]: (row["findings"],) for row in training.to_pylist()
    }  # too few reports for anything to be added


@pytest.mark.parametrize(("use", "control"), [("random", "semantic"), ("paraphrase", "random"), ("enriched", "random")])
def test_texts_that_the_run_did_not_make(tmp_path, use, control):
    place = finished(tmp_path, control=control)
    other = {"semantic": "enriched"}.get(control, control)
    with pytest.raises(ConfigError, match=rf"text\.use is '{use}', and the run .* with --control {control}.*{other}"):
        open_reports(place, use)
    assert open_reports(place, "original").config.control == control


def test_what_is_no_run_or_a_damaged_one(tmp_path):
    with pytest.raises(InputError, match=r"no finished run .*--text\.enriched"):
        open_reports(str(tmp_path), "original")
    place = Path(finished(tmp_path / "run"))
    data = (place / "enriched" / "part.parquet").read_bytes()
    (place / "enriched" / "part.parquet").write_bytes(data[:-1] + b"x")
    with pytest.raises(ConsistencyError, match=r"'enriched/part\.parquet' in .* is not as written"):
        open_reports(str(place), "original")


def test_equal_runs_have_equal_names(tmp_path):
    one, two, other = (finished(tmp_path / name, variants=n) for name, n in (("1", 1), ("2", 1), ("3", 2)))
    names = [open_reports(place, "enriched").content for place in (one, two, other)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("image_ids", "expected"),
    [
        (["p1/s1/a.jpg"], ("p1/s1/a.jpg", "p1/s1/a.jpg", "")),
        (["p1/s1/a"], ("p1/s1/a", "p1/s1/a.jpg", "")),
        (["/p1/s1/a.jpg"], ("/p1/s1/a.jpg", "p1/s1/a.jpg", "")),
        (["c"], ("c", "p2/s3/c.png", "")),  # MIMIC's ids are names of files in deep folders
        (["c.dcm"], ("c.dcm", "p2/s3/c.png", "")),
        (["x.y"], ("x.y", "x.y.png", "")),
        (["dicom"], ("dicom", "p2/dicom", "")),
        (["a"], ("", "", "several image files")),
        (["a", "c"], ("c", "p2/s3/c.png", "")),
        (["nothing", "table"], ("", "", "no image file")),
        (["../outside.png"], ("", "", "no image file")),
        (["", " "], ("", "", "no image id")),
        ([], ("", "", "no image id")),
    ],
)
def test_the_file_of_an_image_id(image_ids, expected):
    files = ["p1/s1/a.jpg", "p2/s2/a.jpg", "p2/s3/c.png", "x.y.png", "p2/dicom", "table.csv"]
    assert ImageFiles(files).first(image_ids) == expected
