"""From prepared images to examples: which classes, which splits, what leaks, and what stays out of the counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from raymedlt.errors import InputError
from raymedlt.images.arranging import EXAMPLES_FILE, arrange, examples_of, read_pixels
from raymedlt.images.config import DataConfig, ImageLabelsConfig, SplitConfig
from raymedlt.images.examples import PixelShards, pixels_column
from raymedlt.schema import IMAGE_LABELS, SPLITS, TEST, TRAIN, VALIDATION
from raymedlt.seeds import generator
from raymedlt.storage import Storage

CLASSES = ("A", "B", "Rare")


def row(number: int, labels: list[str], **more) -> dict:
    return {
        "image_id": f"i{number:03d}", "study_id": "", "patient_id": f"p{number:03d}", "split": "", "view": "",
        "source": "s", "path": f"{number}.png", "labels": labels, "uncertain": [], "unknown": [], "synthetic": False,
        **more,
    }  # fmt: skip


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=IMAGE_LABELS)


def some(count: int = 60) -> list[dict]:
    """A on every second image, B on every third; "Rare" on five."""
    return [
        row(n, ["A"] * (n % 2 == 0) + ["B"] * (n % 3 == 0) + ["Rare"] * (n % 12 == 0), study_id=f"s{n}")
        for n in range(count)
    ]


def prepared(rows: list[dict], hashes: dict[str, str] | None = None) -> pa.Table:
    ids = [each["image_id"] for each in rows]
    return pa.table({"image_id": ids, "sha256": [(hashes or {}).get(each, f"sha-{each}") for each in ids]})


def config(**labels) -> DataConfig:
    return DataConfig(labels=ImageLabelsConfig(**{"min_positives": 2, **labels}))


def arranged(rows: list[dict], how: DataConfig, hashes: dict[str, str] | None = None):
    return arrange(table(rows), prepared(rows, hashes), CLASSES, how)


def signs(result) -> dict[str, dict[str, int]]:
    """image -> class -> sign."""
    return {
        each["image_id"]: dict(zip(result.summary["classes"], each["signs"], strict=True))
        for each in result.table.to_pylist()
    }


# Classes


def test_a_class_with_too_few_training_positives_is_left_out_and_counted():
    rows = some()
    result = arranged(rows, config(min_positives=10))
    assert result.summary["classes"] == ["A", "B"]
    train = {each["image_id"] for each in result.table.to_pylist() if each["split"] == TRAIN}
    rare = sum("Rare" in each["labels"] and each["image_id"] in train for each in rows)
    assert 0 < rare < 5
    assert result.summary["left_out"] == {"Rare": rare}
    all_kept = arranged(rows, config(min_positives=rare))
    assert all_kept.summary["classes"] == list(CLASSES)
    assert all_kept.summary["left_out"] == {}
    assert arranged(rows, config(min_positives=rare + 1)).summary["classes"] == ["A", "B"]


def test_classes_that_are_asked_for_need_one_positive_and_keep_their_order():
    result = arranged(some(), config(min_positives=10, classes=["Rare", "A"]))
    assert result.summary["classes"] == ["Rare", "A"]
    assert signs(result)["i012"] == {"Rare": 1, "A": 1}
    nowhere = arranged(some(), config(classes=["A", "Nowhere"]))
    assert nowhere.summary["classes"] == ["A"]
    assert nowhere.summary["left_out"] == {"Nowhere": 0}


def test_no_class_with_enough_positives_is_an_error():
    with pytest.raises(InputError, match="none of 3 classes has 1000 positive training images"):
        arranged(some(), config(min_positives=1000))
    with pytest.raises(InputError, match="none of 1 classes has 1 positive training images"):
        arranged(some(), config(min_positives=1000, classes=["Nowhere"]))


# Labels


@pytest.mark.parametrize(("policy", "expected"), [("ignore", -1), ("positive", 1), ("negative", 0)])
def test_uncertain_labels(policy, expected):
    rows = some()
    rows[1]["uncertain"] = ["A"]
    result = arranged(rows, config(uncertain=policy))
    assert signs(result)["i001"] == {"A": expected, "B": 0, "Rare": 0}
    assert signs(result)["i002"] == {"A": 1, "B": 0, "Rare": 0}


def test_unknown_labels_have_no_part_whatever_the_policy():
    rows = some()
    for policy in ("ignore", "positive", "negative"):
        for each in rows[:10]:
            each["unknown"] = ["B"]
        result = arranged(rows, config(uncertain=policy))
        assert {signs(result)[each["image_id"]]["B"] for each in rows[:10]} == {-1}
        assert signs(result)["i012"]["B"] == 1


def test_positives_that_are_unknown_do_not_count():
    rows = some()
    for each in rows:
        each["unknown"] = ["Rare"]
    assert arranged(rows, config(min_positives=1)).summary["left_out"] == {"Rare": 0}


# Splits


def test_splits_are_made_by_patient_in_the_shares_asked_for():
    rows = [{**each, "patient_id": f"p{n // 3}"} for n, each in enumerate(some(180))]
    how = dataclasses.replace(config(), split=SplitConfig(validation=0.2, test=0.3))
    result = arranged(rows, how)
    patients = {split: set() for split in SPLITS}
    for each in result.table.to_pylist():
        patients[each["split"]].add(each["patient_id"])
    assert {split: len(patients[split]) for split in SPLITS} == {TRAIN: 30, VALIDATION: 12, TEST: 18}
    assert result.summary["patients"] == {TRAIN: 30, VALIDATION: 12, TEST: 18}
    assert sum(result.summary["images"].values()) == 180
    assert not patients[TRAIN] & patients[TEST]


def test_splits_of_the_table_are_kept_and_missing_ones_completed():
    given = [TRAIN, TRAIN, TRAIN, VALIDATION, TEST]
    rows = [{**each, "split": given[n % 5]} for n, each in enumerate(some())]
    kept = {each["image_id"]: each["split"] for each in arranged(rows, config()).table.to_pylist()}
    assert kept == {each["image_id"]: each["split"] for each in rows}
    rows = [{**each, "split": TEST if n % 5 == 4 else TRAIN} for n, each in enumerate(some())]
    completed = {each["image_id"]: each["split"] for each in arranged(rows, config()).table.to_pylist()}
    assert {image for image, split in completed.items() if split == TEST} == {
        each["image_id"] for each in rows if each["split"] == TEST
    }
    assert VALIDATION in completed.values()


def test_a_patient_in_two_splits_is_an_error():
    rows = [{**each, "split": TEST if n % 5 == 4 else TRAIN} for n, each in enumerate(some())]
    rows[4]["patient_id"] = rows[0]["patient_id"]
    with pytest.raises(InputError, match="1 patients have images in more than one split"):
        arranged(rows, config())


def test_the_same_picture_in_two_splits_is_an_error():
    rows = [{**each, "split": [TRAIN, TRAIN, TRAIN, VALIDATION, TEST][n % 5]} for n, each in enumerate(some())]
    with pytest.raises(InputError, match="1 images have copies under another name in another split"):
        arranged(rows, config(), {"i000": "same", "i004": "same"})
    arranged(rows, config(), {"i000": "same", "i001": "same"})  # both are training images
    arranged(rows, config(), {each["image_id"]: "" for each in rows})  # a phantom has no files


# Which rows


def test_images_that_could_not_be_prepared_are_out_and_the_order_is_that_of_the_shards():
    rows = some()
    left = [each for n, each in enumerate(rows) if n % 7][::-1]
    result = arrange(table(rows), prepared(left), CLASSES, config())
    assert result.table["image_id"].to_pylist() == [each["image_id"] for each in left]
    expected = {each["image_id"]: "A" in each["labels"] for each in left}
    assert {image: sign["A"] == 1 for image, sign in signs(result).items()} == expected
    none = pa.schema([("image_id", pa.string()), ("sha256", pa.string())]).empty_table()
    with pytest.raises(InputError, match="no image could be prepared"):
        arrange(table(rows), none, CLASSES, config())


def test_synthetic_images_are_training_images_and_count_nowhere():
    synthetic = [
        row(900 + n, ["Rare"], image_id=f"synthetic-{n}", patient_id=f"synthetic-{n}", split=TRAIN, synthetic=True)
        for n in range(30)
    ]
    real = arranged(some(), config(min_positives=6))
    result = arranged(some() + synthetic, config(min_positives=6))
    assert result.summary == {**real.summary, "synthetic": 30}  # and "Rare" is still left out
    assert result.table.slice(0, 60).equals(real.table)
    drawn = result.table.filter(result.table["synthetic"])
    assert drawn.num_rows == 30
    assert pc.unique(drawn["split"]).to_pylist() == [TRAIN]
    assert result.summary["classes"] == ["A", "B"]


# Examples


def test_the_stored_rows_give_the_examples_back(tmp_path):
    rows = some()
    rows[1]["uncertain"], rows[2]["unknown"] = ["A"], ["B"]
    rows.append(row(99, ["B"], image_id="synthetic-0", patient_id="synthetic-0", split=TRAIN, synthetic=True))
    result = arranged(rows, config(min_positives=1))
    pixels = generator(0, "arrange").integers(0, 256, (61, 4, 4)).astype(np.uint8)
    storage = Storage.of(str(tmp_path))
    storage.write_table(EXAMPLES_FILE, result.table)
    names = [
        storage.write_table(f"_work/images/{n}.parquet", pa.table({"pixels": pixels_column(part)})).name
        for n, part in enumerate(np.split(pixels, [20, 45]))
    ]
    examples = examples_of(
        storage.read_table(EXAMPLES_FILE), result.summary["classes"], read_pixels(storage, names, size=4)
    )
    assert examples.classes == CLASSES
    assert examples.image_ids.tolist() == [each["image_id"] for each in rows]
    assert examples.patient_ids.tolist() == [each["patient_id"] for each in rows]
    assert examples.splits.tolist() == result.table["split"].to_pylist()
    assert set(examples.sources) == {"s"}
    np.testing.assert_array_equal(examples.labels_NC[:4], [[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(examples.known_NC[:4], [[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
    assert examples.labels_NC.dtype == np.float32
    assert examples.synthetic.tolist() == [False] * 60 + [True]
    np.testing.assert_array_equal(examples.pixels.take(np.arange(61)), pixels)
    part = examples_of(result.table.slice(5, 7), CLASSES, PixelShards.of([pixels[5:12]]))
    np.testing.assert_array_equal(part.labels_NC, examples.labels_NC[5:12])
