"""From label table and files, or the phantom, to prepared shards: what is decoded, drawn and rejected."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raymedlt.errors import ConfigError, InputError
from raymedlt.images.config import DataConfig, ImageLabelsConfig, ImagesConfig, PhantomConfig
from raymedlt.images.examples import pixels_of
from raymedlt.images.phantom import draw, findings_of
from raymedlt.images.preparing import LABELS_FILE, PREPARE, PrepareShard, Source, kind_of, read_source, shards_of
from raymedlt.images.readers import read_square
from raymedlt.ledger import LedgerHandle
from raymedlt.schema import IMAGE_LABELS, REJECTED, TRAIN
from raymedlt.seeds import generator
from raymedlt.storage import Storage, sha256_of

NAMES = [f"{n}.png" for n in range(7)]


def png(path: Path, number: int, shape: tuple[int, int] = (40, 50)) -> bytes:
    Image.fromarray(generator(number, "png").integers(0, 256, shape).astype(np.uint8)).save(path, "PNG")
    return path.read_bytes()


@pytest.fixture
def files(tmp_path: Path) -> DataConfig:
    """Five images, one that breaks off, one that isn't there."""
    (tmp_path / "images").mkdir()
    for number, name in enumerate(NAMES):
        png(tmp_path / "images" / name, number)
    broken = tmp_path / "images" / "2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (tmp_path / "images" / "5.png").unlink()
    lines = ["image,patient_id,labels", *(f"{name},p{n},{'A' if n % 2 else 'B'}" for n, name in enumerate(NAMES))]
    (tmp_path / "labels.csv").write_text("\n".join([*lines, ",p9,A"]))
    return DataConfig(
        images=ImagesConfig(path=str(tmp_path / "images"), size=32, shard_images=4),
        labels=ImageLabelsConfig(path=str(tmp_path / "labels.csv")),
    )


def prepare(
    config: DataConfig, storage: Storage, only: slice = slice(None)
) -> tuple[Source, dict[str, dict], list[pa.Table], pa.Table]:
    """What the job's first two stages do: source, summaries, tables of images in order, rejected rows.

    only: of the shards.
    """
    source = read_source(config)
    storage.write_table(LABELS_FILE, source.images)
    shards = shards_of(source.images, config.images)
    handle = LedgerHandle(storage)
    function = PrepareShard(handle, config, shards)
    summaries = {shard: function(shard) for shard in list(shards)[only]}
    for shard, summary in summaries.items():
        assert handle.done(PREPARE, shard) == summary
        assert summary["rows"] == summary["kept"] + sum(summary["rejected"].values())
    images = [storage.read_table(name) for name in storage.list_files("_work/images")]
    rejected = [storage.read_table(name) for name in storage.list_files("rejected")]
    return source, summaries, images, pa.concat_tables([REJECTED.empty_table(), *rejected])


# Files


def test_files_are_decoded_and_bad_ones_rejected_with_reasons(files, tmp_path):
    source, summaries, images, rejected = prepare(files, Storage.of(str(tmp_path / "run")))
    assert source.classes == ("A", "B")
    assert source.rejected["reason"].to_pylist() == ["empty image id"]
    assert [summary["rejected"] for summary in summaries.values()] == [{"corrupt png": 1}, {"file not found": 1}]
    assert rejected.to_pylist() == [
        {"row_id": "2.png", "source": "2.png", "reason": "corrupt png"},
        {"row_id": "5.png", "source": "5.png", "reason": "file not found"},
    ]
    table = pa.concat_tables(images)
    good = [name for name in NAMES if name not in ("2.png", "5.png")]
    assert table["image_id"].to_pylist() == good
    folder = Storage.of(files.images.path)
    for name, sha256, pixels in zip(good, table["sha256"].to_pylist(), pixels_of(table, 32), strict=True):
        np.testing.assert_array_equal(pixels, read_square(folder, name, 32, "pad", 10**6))
        assert sha256 == sha256_of(folder.read_bytes(name))


def test_a_shard_without_a_good_image_has_no_file(files, tmp_path):
    alone = dataclasses.replace(files, images=dataclasses.replace(files.images, shard_images=1))
    storage = Storage.of(str(tmp_path / "run"))
    _, summaries, images, rejected = prepare(alone, storage)
    assert len(summaries) == 7
    assert len(images) == 5
    assert rejected.num_rows == 2


def test_the_limit_of_pixels_is_the_configurations(files, tmp_path):
    few = dataclasses.replace(files, images=dataclasses.replace(files.images, max_pixels=1999))
    _, _, images, rejected = prepare(few, Storage.of(str(tmp_path / "run")))
    assert images == []
    assert sorted(rejected["reason"].to_pylist())[-1] == "too many pixels: 2000"


def test_doing_a_shard_again_writes_the_same_bytes(files, tmp_path):
    for name in ("one", "two"):
        prepare(files, Storage.of(str(tmp_path / name)))
    one, two = ({path.relative_to(root): path.read_bytes() for path in root.rglob("*.parquet")}
                for root in (tmp_path / "one", tmp_path / "two"))  # fmt: skip
    assert one == two


def test_names_of_shards_follow_from_the_ids(files):
    images = read_source(files).images
    shards = shards_of(images, files.images)
    assert list(shards.values()) == [(0, 4), (4, 3)]
    assert list(shards) == sorted(shards)
    other = images.set_column(images.schema.get_field_index("path"), "path", pa.array(["x"] * 7))
    assert list(shards_of(other, files.images)) == list(shards)  # ids alone
    ids = images["image_id"].to_pylist()
    changed = images.set_column(0, "image_id", pa.array([*ids[:-1], "another"]))
    first, second = shards_of(changed, files.images)
    assert first == next(iter(shards))
    assert second not in shards


def test_rows_come_in_the_order_of_their_ids(files):
    lines = Path(files.labels.path).read_text().splitlines()
    before = read_source(files).images
    Path(files.labels.path).write_text("\n".join([lines[0], *lines[:0:-1]]))
    assert read_source(files).images.equals(before)


# The phantom


def test_the_phantom_is_drawn(tmp_path):
    config = DataConfig(
        images=ImagesConfig(size=32, shard_images=3),
        phantom=PhantomConfig(images=100, test_images=20, test_positives=1, classes=4, prevalence="openi"),
        seed=3,
    )
    source, _, images, rejected = prepare(config, Storage.of(str(tmp_path)), slice(2))
    assert source.images.schema.names == [*IMAGE_LABELS.names, "findings"]
    assert len(source.classes) == 4
    assert rejected.num_rows == 0
    assert source.images.num_rows >= 120
    table = pa.concat_tables(images)
    assert table["image_id"].to_pylist() == source.images["image_id"].to_pylist()[:6]
    assert set(table["sha256"].to_pylist()) == {""}
    rows = source.images.to_pylist()
    for row, pixels in zip(rows[:6:2], pixels_of(table, 32)[::2], strict=True):
        expected = draw(findings_of(row["findings"]), seed=3, image_id=row["image_id"], size=32)
        np.testing.assert_array_equal(pixels, expected)
    assert all({finding["name"] for finding in row["findings"]} == set(row["labels"]) for row in rows)


# Synthetic images


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    """As jobs/synthesize.py leaves it: five drawn, one of them refused, one empty, and one that nobody planned."""
    root = tmp_path / "synthesis"
    storage = Storage.of(str(root))
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = []
    for number in range(5):
        data = png(tmp_path / f"synthetic-{number}.png", 100 + number, (32, 32))
        rows.append(
            {
                "row_id": f"r{number}", "image": {"bytes": data, "path": f"r{number}.png"}, "sha256": sha256_of(data),
                "accepted": number != 1, "reasons": ["blurred"] if number == 1 else [], "scores": [0.5],
                "synthetic": True,
            }
        )  # fmt: skip
    rows[2]["image"] = {"bytes": b"", "path": "r2.png"}
    schema = pa.schema(
        [
            ("row_id", pa.string()), ("image", image), ("sha256", pa.string()), ("accepted", pa.bool_()),
            ("reasons", pa.list_(pa.string())), ("scores", pa.list_(pa.float64())), ("synthetic", pa.bool_()),
        ]
    )  # fmt: skip
    storage.write_table("images/0.parquet", pa.Table.from_pylist(rows[:2], schema=schema))
    storage.write_table("images/1.parquet", pa.Table.from_pylist(rows[2:], schema=schema))
    plan = [{"row_id": f"r{n}", "label_set": ["A"], "prompt": "x", "seed": n, "checkpoint_hash": "h"} for n in range(4)]
    storage.write_table("plan/0.parquet", pa.Table.from_pylist(plan))
    return root


def test_synthetic_images_are_training_rows_behind_the_real_ones(files, synthetic, tmp_path):
    config = dataclasses.replace(files, synthetic=str(synthetic))
    source, _, images, rejected = prepare(config, Storage.of(str(tmp_path / "run")))
    added = source.images.filter(source.images["synthetic"]).to_pylist()
    assert [row["image_id"] for row in added] == ["synthetic-r0", "synthetic-r2", "synthetic-r3"]
    assert {row["split"] for row in added} == {TRAIN}
    assert {row["source"] for row in added} == {"synthetic"}
    assert all(row["labels"] == ["A"] and row["patient_id"] == row["image_id"] for row in added)
    assert source.images.num_rows == 7 + 3
    assert source.rejected.to_pylist()[1:] == [
        {"row_id": "synthetic-r4", "source": "synthetic", "reason": "not in the table plan"}
    ]
    assert {"row_id": "synthetic-r2", "source": "images/1.parquet:0", "reason": "empty file"} in rejected.to_pylist()
    table = pa.concat_tables(images)
    pixels = dict(zip(table["image_id"].to_pylist(), pixels_of(table, 32), strict=True))
    for number in (0, 3):
        expected = np.asarray(Image.open(tmp_path / f"synthetic-{number}.png"))
        np.testing.assert_array_equal(pixels[f"synthetic-r{number}"], expected)
    assert len(pixels) == 5 + 2


def test_a_shard_opens_only_the_files_that_hold_its_images(files, synthetic, tmp_path):
    (synthetic / "images" / "0.parquet").rename(synthetic / "images" / "2.parquet")
    config = dataclasses.replace(
        files, images=dataclasses.replace(files.images, shard_images=3), synthetic=str(synthetic)
    )
    images, storage = read_source(config).images, Storage.of(str(tmp_path / "run"))
    assert images["image_id"].to_pylist()[6:] == ["6.png", "synthetic-r2", "synthetic-r3", "synthetic-r0"]
    storage.write_table(LABELS_FILE, images)
    shards = shards_of(images, config.images)
    prepare_shard = PrepareShard(LedgerHandle(storage), config, shards)
    (synthetic / "images" / "1.parquet").unlink()
    assert prepare_shard(list(shards)[3])["kept"] == 1
    with pytest.raises(FileNotFoundError):
        prepare_shard(list(shards)[2])


def test_what_the_gate_refused_can_be_asked_for(files, synthetic):
    images = read_source(dataclasses.replace(files, synthetic=str(synthetic), accepted_only=False)).images
    assert "synthetic-r1" in images["image_id"].to_pylist()


def test_synthetic_images_of_unknown_classes_are_rejected(files, synthetic):
    plan = [{"row_id": f"r{n}", "label_set": ["A", "Typo"] if n else ["A"]} for n in range(4)]
    Storage.of(str(synthetic)).write_table("plan/0.parquet", pa.Table.from_pylist(plan))
    source = read_source(dataclasses.replace(files, synthetic=str(synthetic)))
    assert [row["image_id"] for row in source.images.to_pylist() if row["synthetic"]] == ["synthetic-r0"]
    reasons = [row["reason"] for row in source.rejected.to_pylist() if row["row_id"].startswith("synthetic")]
    assert reasons.count("its label set has a class that the label table lacks") == 2


def test_synthetic_images_beside_a_phantom(synthetic, tmp_path):
    plan = [{"row_id": f"r{n}", "label_set": ["Vertebral degenerative changes"]} for n in range(4)]
    Storage.of(str(synthetic)).write_table("plan/0.parquet", pa.Table.from_pylist(plan))
    config = DataConfig(
        images=ImagesConfig(size=32, shard_images=4),
        phantom=PhantomConfig(images=100, test_images=1, test_positives=0, classes=2, prevalence="openi"),
        synthetic=str(synthetic),
    )
    source, _, images, rejected = prepare(config, Storage.of(str(tmp_path / "run")), slice(25, 26))
    assert source.images.num_rows == 104
    assert sum(source.images["synthetic"].to_pylist()) == 3
    assert images[0]["image_id"].to_pylist() == ["t0000000_0", "synthetic-r0", "synthetic-r3"]
    assert rejected["row_id"].to_pylist() == ["synthetic-r2"]


def test_a_folder_without_plan_or_images_is_an_error(files, tmp_path):
    with pytest.raises(InputError, match=r"no \*\.parquet"):
        read_source(dataclasses.replace(files, synthetic=str(tmp_path / "nothing")))


def test_reasons_lose_what_they_quote_of_the_table():
    assert kind_of("unknown label: 'Jane Doe'") == "unknown label"
    assert kind_of("the file 'a.png' is missing") == "the file"


def test_a_class_that_the_phantom_does_not_draw_is_an_error(tmp_path):
    config = DataConfig(phantom=PhantomConfig(images=100, classes=4), labels=ImageLabelsConfig(classes=["Cavitaton"]))
    with pytest.raises(ConfigError, match="nearest to 'Cavitaton': Cavitation"):
        read_source(config)
