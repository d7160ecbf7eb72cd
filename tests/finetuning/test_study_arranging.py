"""From reports and images to the studies of a run: kept once, counted, and the same in every control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image
from report_run_world import REPORTS, finished
from studies_world import words

from raymedlt.errors import InputError
from raymedlt.finetuning.arranging import REJECTED_FILE, STUDIES_FILE, arrange_studies, read_studies
from raymedlt.finetuning.config import FinetuneConfig, TextConfig, data_of
from raymedlt.finetuning.report_runs import open_reports
from raymedlt.images.arranging import Data
from raymedlt.images.config import ImagesConfig, PhantomConfig, SplitConfig
from raymedlt.images.stages import DataStages, image_sizes, rejected_rows
from raymedlt.ledger import Ledger
from raymedlt.progress import Progress
from raymedlt.schema import SPLITS, STUDIES
from raymedlt.storage import Storage


def tokens_of(texts: Sequence[str]) -> Callable[[str], int]:
    assert len(texts)
    return words


def opened(storage: Storage) -> Ledger:
    return Ledger.open(storage, config_hash="c", config={}, data_hash="d")


def phantom(output: Path, **text: object) -> FinetuneConfig:
    return FinetuneConfig(
        output=str(output),
        phantom=PhantomConfig(images=120, test_images=20, test_positives=0, classes=12),
        images=ImagesConfig(size=32),
        text=TextConfig(**text),
        workers=1,
    )


def made(config: FinetuneConfig, **more: object) -> dict:
    """The stages of the phantom."""
    storage = Storage.of(config.output)
    with opened(storage) as ledger:
        stages = DataStages(data_of(config), storage, ledger, Progress(), lambda: None)
        classes = stages.run()[2]["classes"]
        examples = Data(tuple(classes), tuple(stages.image_files()), config.images.size).labels(storage)
        return arrange_studies(config, examples, None, ledger, tokens_of, **more)


def test_the_phantoms_studies(tmp_path):
    summary = made(phantom(tmp_path, use="complete"))
    storage = Storage.of(str(tmp_path))
    studies = read_studies(storage)
    assert storage.read_table(STUDIES_FILE).schema.names == STUDIES.names
    assert summary["reports"] == 140 == len(studies) + sum(summary["rejected"].values())
    assert summary["studies"] == {split: len(studies.of(split)) for split in SPLITS}
    assert summary["taught"] > 0.5 * summary["studies"]["train"]
    assert summary["tokens"]["largest"] == max(map(words, studies.training_texts()))
    assert summary["learnt_from_held_out"] == 0
    files = {name: storage.read_bytes(name) for name in storage.list_files("_work/studies")}
    assert made(phantom(tmp_path, use="complete")) == summary  # kept, not made again
    assert {name: storage.read_bytes(name) for name in files} == files


def test_a_control_changes_training_texts_alone(tmp_path):
    made(phantom(tmp_path / "one", use="original"))
    made(phantom(tmp_path / "two", use="complete"))
    one, two = (read_studies(Storage.of(str(tmp_path / name))).table() for name in ("one", "two"))
    same = ["report_id", "patient_id", "split", "image_id", "image_row", "reference_findings", "language"]
    assert one.select(same).equals(two.select(same))
    held_out = pc.not_equal(one["split"], "train")
    assert one.filter(held_out).equals(two.filter(held_out))
    assert not one["targets"].equals(two["targets"])


def test_texts_that_are_too_long(tmp_path):
    summary = made(phantom(tmp_path / "some", max_tokens=30))
    rejected = rejected_rows(Storage.of(str(tmp_path / "some")))
    assert summary["rejected"]["too long"] == sum(reason.startswith("too long") for _, _, reason in rejected) > 0
    assert summary["tokens"]["largest"] <= 30
    with pytest.raises(InputError, match=r"every training study has a text of more than 8 tokens.*--text\.max_tokens"):
        made(phantom(tmp_path / "all", max_tokens=8, use="complete"))


def test_more_rejected_rows_than_allowed(tmp_path):
    config = FinetuneConfig(**{**vars(phantom(tmp_path, max_tokens=30)), "max_rejected": 3})
    with pytest.raises(InputError, match=r"\d+ rows were rejected, \d+ of them reports\. Expected: at most 3"):
        made(config, rejected_before=3)


def test_images_of_a_folder(tmp_path):
    images, rng = tmp_path / "images", np.random.default_rng(0)
    (images / "deep").mkdir(parents=True)
    for name in ("one.png", "two.png", "deep/three.jpg", "five.png", "six.png"):
        Image.fromarray(rng.integers(0, 255, (40, 30), np.uint8)).save(images / name)
    (images / "broken.png").write_bytes(b"no image")
    reports = REPORTS.set_column(
        REPORTS.schema.get_field_index("image_ids"), "image_ids",
        pa.array([["one"], ["two.png"], ["deep/three"], [], ["five"], ["broken"]]),
    )  # fmt: skip
    place = finished(tmp_path / "run")
    output = images / "runs" / "mine"  # inside the folder of the images
    config = FinetuneConfig(
        output=str(output),
        images=ImagesConfig(path=str(images), size=32),
        text=TextConfig(use="enriched", enriched=place),
        split=SplitConfig(validation=0.3, test=0.3),
        workers=1,
    )
    run = open_reports(place, "enriched")
    run = type(run)(run.uri, run.config, reports_of(run.reports, reports), run.enriched, run.content)
    storage = Storage.of(str(output))
    with opened(storage) as ledger:
        files = [name for name, _ in image_sizes(str(images), str(output))]
        stages = DataStages(
            data_of(config), storage, ledger, Progress(), lambda: None, source=lambda _: run.source(files)
        )
        labels, _, arranged = stages.run()
        examples = Data(tuple(arranged["classes"]), tuple(stages.image_files()), 32).labels(storage)
        summary = arrange_studies(config, examples, run, ledger, tokens_of)
    assert labels["rows"] == 6
    studies = read_studies(storage)
    assert dict(zip(studies.report_ids, studies.splits, strict=True)) == {
        "a": "train", "b": "train", "c": "test", "e": "validation"
    }  # fmt: skip
    assert dict(zip(studies.report_ids, studies.image_ids, strict=True))["c"] == "deep/three"
    reasons = {row: reason for row, _, reason in rejected_rows(storage)}
    assert reasons["d"] == "no image id"
    assert set(reasons) == {"d", "broken"}
    assert summary["reports"] == len(studies)
    assert not storage.exists(REJECTED_FILE)


def reports_of(reports: pa.Table, changed: pa.Table) -> pa.Table:
    """The run's reports with other image ids."""
    place = reports.schema.get_field_index("image_ids")
    return reports.set_column(place, reports.schema.field(place), changed["image_ids"].cast(pa.list_(pa.string())))
