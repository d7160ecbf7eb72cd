"""Rows and their images: taking across shards, the column of pixels, who belongs to which split."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from classifier_world import world

from raymedlt.images.examples import PixelShards, pixels_column, pixels_of
from raymedlt.schema import TEST, TRAIN, VALIDATION
from raymedlt.seeds import generator

IMAGES = generator(0, "examples").integers(0, 256, (11, 5, 5)).astype(np.uint8)


@pytest.mark.parametrize("cuts", [[], [4], [1, 2, 10], [0, 3, 3, 11]])  # the last one has empty shards
def test_images_are_taken_in_the_order_asked_for(cuts):
    pixels = PixelShards.of(np.split(IMAGES, cuts))
    rows = np.array([10, 0, 3, 3, 4, 9, 2, 1])
    np.testing.assert_array_equal(pixels.take(rows), IMAGES[rows])
    assert pixels.take(rows).dtype == np.uint8
    assert pixels.take(np.zeros(0, np.int64)).shape == (0, 5, 5)


def test_what_is_taken_is_a_copy():
    pixels = PixelShards.of([IMAGES.copy()])
    pixels.take(np.array([0]))[:] = 0
    np.testing.assert_array_equal(pixels.take(np.array([0])), IMAGES[:1])


def test_a_row_beyond_the_last_is_an_error():
    with pytest.raises(IndexError):
        PixelShards.of(np.split(IMAGES, 2 * [5])).take(np.array([11]))


def test_the_column_gives_the_images_back(tmp_path):
    table = pa.table({"pixels": pixels_column(IMAGES)})
    assert table.schema.field("pixels").type == pa.binary(25)
    assert table["pixels"][3].as_py() == IMAGES[3].tobytes()
    np.testing.assert_array_equal(pixels_of(table, 5), IMAGES)
    pq.write_table(table, tmp_path / "pixels.parquet", row_group_size=4)
    np.testing.assert_array_equal(pixels_of(pq.read_table(tmp_path / "pixels.parquet"), 5), IMAGES)


def test_sliced_and_chunked_tables_give_their_own_images():
    table = pa.table({"pixels": pixels_column(IMAGES)})
    np.testing.assert_array_equal(pixels_of(table.slice(3, 4), 5), IMAGES[3:7])
    np.testing.assert_array_equal(pixels_of(table.slice(3).slice(2, 1), 5), IMAGES[5:6])
    chunks = pa.concat_tables([table.slice(7), table.slice(2, 3), table.slice(0, 0)])
    np.testing.assert_array_equal(pixels_of(chunks, 5), IMAGES[[7, 8, 9, 10, 2, 3, 4]])
    assert pixels_of(table.slice(0, 0), 5).shape == (0, 5, 5)
    assert pixels_of(table.schema.empty_table(), 5).shape == (0, 5, 5)


def test_a_view_of_another_array_is_stored_as_it_looks():
    view = IMAGES[::2, ::-1]
    np.testing.assert_array_equal(pixels_of(pa.table({"pixels": pixels_column(view)}), 5), view)


def test_splits_and_synthetic_rows():
    examples = world(60)
    synthetic = np.zeros(60, bool)
    synthetic[examples.rows(TRAIN)[:7]] = True
    mixed = dataclasses.replace(examples, synthetic=synthetic)
    assert len(mixed) == 60
    assert set(mixed.rows(TRAIN)) == set(examples.rows(TRAIN)[7:])
    assert set(mixed.rows(TRAIN, synthetic=True)) == set(examples.rows(TRAIN)[:7])
    assert set(mixed.rows(TRAIN, synthetic=None)) == set(examples.rows(TRAIN))
    parts = [mixed.rows(split, synthetic=None) for split in (TRAIN, VALIDATION, TEST)]
    assert sorted(np.concatenate(parts)) == list(range(60))


def test_counts_are_of_real_training_images_whose_label_is_known():
    examples = world(60)
    known = np.ones_like(examples.known_NC)
    train = examples.rows(TRAIN)
    shown = train[examples.labels_NC[train, 0] == 1]
    known[shown[0], 0] = False
    synthetic = np.zeros(60, bool)
    synthetic[shown[1]] = True
    changed = dataclasses.replace(examples, known_NC=known, synthetic=synthetic)
    expected = examples.counts() - [2, examples.labels_NC[shown[1], 1], examples.labels_NC[shown[1], 2]]
    np.testing.assert_array_equal(changed.counts(), expected)
    assert changed.counts().dtype == np.int64


def test_other_pixels_leave_the_rows_alone():
    examples = world(60)
    other = examples.with_pixels(PixelShards.of([np.zeros((60, 8, 8), np.uint8)]))
    assert other.pixels.take(np.array([3])).shape == (1, 8, 8)
    assert other.labels_NC is examples.labels_NC
