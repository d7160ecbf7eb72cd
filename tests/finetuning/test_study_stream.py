"""Micro-batches made by Ray Data are those of the thread."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import studies_world
import torch
from studies_world import SIZE, collate, world

from raymedlt.finetuning.feed import Blind, parts_of, ray_feed, steps_of, thread_feed
from raymedlt.images.arranging import Data
from raymedlt.images.config import AugmentConfig
from raymedlt.images.distributed import RefPixels, put_pixels
from raymedlt.images.examples import pixels_column
from raymedlt.schema import VALIDATION
from raymedlt.storage import Storage


@pytest.fixture(autouse=True)
def _by_value():
    """Workers don't have the folder of the tests."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(studies_world)
    yield
    cloudpickle.unregister_pickle_by_value(studies_world)


def test_streamed_micro_batches_are_the_same(local_ray, tmp_path):
    studies, examples = world()
    storage, files = Storage.of(str(tmp_path)), []
    pixels = examples.pixels.take(np.arange(len(examples)))
    for number, start in enumerate(range(0, len(pixels), 50)):
        table = pa.table({"pixels": pixels_column(pixels[start : start + 50])})
        files.append(storage.write_table(f"{number}.parquet", table).name)
    refs, starts = put_pixels(Data((), tuple(files), SIZE), storage)
    changes = AugmentConfig()
    there = ray_feed(studies, RefPixels(refs, starts, SIZE), collate, changes, 1)
    here = thread_feed(studies, examples.pixels, collate, changes)
    steps = steps_of(studies, seed=0, epoch=0, batch=24, micro_batch=12)
    for parts in ([part for step in steps[:3] for part in step.parts], parts_of(studies, VALIDATION, 8)):
        ours, theirs = list(there(parts)), list(here(parts))
        assert len(ours) == len(theirs) == len(parts)
        for left, right in zip(ours, theirs, strict=True):
            assert left.keys() == right.keys()
            for name in left:
                assert left[name].dtype == right[name].dtype
                assert torch.equal(left[name], right[name]), name
    assert list(there([])) == []


def test_the_blind_control_streams_too(local_ray):
    studies, _ = world()
    feed = ray_feed(studies, Blind(SIZE), collate, AugmentConfig(), 99)  # more replicas than CPUs: nothing waits
    parts = parts_of(studies, VALIDATION, 4)[:2]
    assert [float(batch["pixel_values"].mean()) for batch in feed(parts)] == [np.float32(128 / 255)] * len(parts)


class Unknown:
    """An object that no worker can unpack."""

    def __reduce__(self):
        return __import__, ("a_package_of_this_node_alone",)


@pytest.mark.parametrize(("broken", "message"), [("collate", "no such token"), ("pixels", "unpacked on this node")])
def test_what_breaks_a_task_ends_the_feed_at_once(local_ray, broken, message):
    studies, examples = world()

    def no_token(images, texts):
        raise ValueError("no such token")

    pixels = Unknown() if broken == "pixels" else examples.pixels
    feed = ray_feed(studies, pixels, no_token if broken == "collate" else collate, AugmentConfig(), 1)
    with pytest.raises(Exception, match=message):
        list(feed(parts_of(studies, VALIDATION, 8)[:2]))
