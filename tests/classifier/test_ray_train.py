"""Under Ray Train: the same losses with two replicas, images streamed by Ray Data, and a replica that is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from classifier_world import STILL, quick, world

from raymedlt.checkpoint import LATEST, Checkpoints
from raymedlt.classifier.config import ClassifyConfig, LossConfig
from raymedlt.classifier.distributed import train_on_ray
from raymedlt.classifier.task import TRAINED, Training, do
from raymedlt.errors import RaymedltError
from raymedlt.images.arranging import EXAMPLES_FILE, Data, arrange
from raymedlt.images.examples import Examples, pixels_column
from raymedlt.ledger import LedgerHandle
from raymedlt.machine import Settings
from raymedlt.storage import Storage

SETTINGS = Settings("cpu", "float32", 1)


def stored(examples: Examples, storage: Storage) -> Data:
    """The world as the stages before the training leave it."""
    pixels = examples.pixels.take(np.arange(len(examples)))
    files = []
    for number, start in enumerate(range(0, len(examples), 50)):
        table = pa.table({"pixels": pixels_column(pixels[start : start + 50])})
        files.append(storage.write_table(f"_work/images/{number}.parquet", table).name)
    signs = examples.labels_NC.astype(np.int8)
    table = pa.table(
        {
            "image_id": examples.image_ids.tolist(),
            "patient_id": examples.patient_ids.tolist(),
            "split": examples.splits.tolist(),
            "source": examples.sources.tolist(),
            "synthetic": examples.synthetic,
            "signs": pa.FixedSizeListArray.from_arrays(pa.array(signs.ravel()), signs.shape[1]),
        }
    )
    storage.write_table(EXAMPLES_FILE, table)
    return Data(examples.classes, tuple(files), pixels.shape[1])


def history(storage: Storage, name: str) -> list[dict]:
    marker = LedgerHandle(storage).done(TRAINED, name)
    assert marker is not None
    return marker["history"]


def still(config: ClassifyConfig) -> ClassifyConfig:
    """No dropout, no augmentation, frozen statistics, every image once."""
    return dataclasses.replace(
        config,
        augment=STILL,
        loss=LossConfig(sampling="uniform"),
        model=dataclasses.replace(config.model, graph_dropout=0.0),
        training=dataclasses.replace(config.training, freeze_norms=True),
    )


def pids_of(name: str) -> list[str]:
    return subprocess.run(["pgrep", "-f", name], capture_output=True, text=True, check=False).stdout.split()


def test_two_replicas_have_the_losses_of_one(tmp_path, local_ray):
    storage = Storage.of(str(tmp_path))
    data = stored(world(48), storage)  # 32 training images: an epoch is one step
    # The paper's rates. With larger ones Adam turns the last digit of a gradient near 0 into a step of full size.
    rates = {"backbone_rate": 1.5e-5, "rate": 1.5e-4}
    one = still(quick(stage1_epochs=0, stage2_epochs=50, batch_images=32, patience=60, **rates))
    two = dataclasses.replace(one, training=dataclasses.replace(one.training, replicas=2))
    do(Training("one", one), data, SETTINGS, LedgerHandle(storage))
    train_on_ray(Training("two", two), data, SETTINGS, LedgerHandle(storage), stream=False, storage=storage)
    losses = np.array([[line["loss"] for line in history(storage, name)] for name in ("one", "two")])
    assert losses.shape == (2, 50)
    assert losses[0, -1] < losses[0, 0] - 0.04  # it does learn
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_streamed_batches_are_the_same(tmp_path, local_ray):
    storage = Storage.of(str(tmp_path))
    data, config = stored(world(), storage), quick()
    do(Training("here", config), data, SETTINGS, LedgerHandle(storage))
    train_on_ray(Training("there", config), data, SETTINGS, LedgerHandle(storage), stream=True, storage=storage)
    assert history(storage, "there") == history(storage, "here")


@pytest.mark.slow
def test_a_killed_replica_goes_on(tmp_path, local_ray):
    storage = Storage.of(str(tmp_path))
    data, config = stored(world(), storage), quick(stage2_epochs=60, patience=100, checkpoint_seconds=0.0)
    do(Training("whole", config), data, SETTINGS, LedgerHandle(storage))
    killed: list[int] = []

    def kill_one() -> None:
        checkpoints = storage.sub("_work/train/killed")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            try:
                at = json.loads(checkpoints.read_bytes(LATEST))["position"]
            except (FileNotFoundError, ValueError):
                at = {"steps": 0}
            found = pids_of("RayTrainWorker")
            if at["steps"] >= 20 and found:
                killed.append(int(found[0]))
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.02)

    thread = threading.Thread(target=kill_one)
    thread.start()
    train_on_ray(Training("killed", config), data, SETTINGS, LedgerHandle(storage), stream=False, storage=storage)
    thread.join()
    assert killed, "the training ended before a replica could be killed"
    assert Checkpoints(storage.sub("_work/train/killed")).read()[0].finished
    assert history(storage, "killed") == history(storage, "whole")


@pytest.mark.parametrize("missing", ["images"])
def test_arrange_needs_images(missing):
    empty = pa.table({"image_id": pa.array([], pa.string()), "sha256": pa.array([], pa.string())})
    from raymedlt.errors import InputError
    from raymedlt.schema import IMAGE_LABELS

    with pytest.raises(InputError, match="no image could be prepared"):
        arrange(IMAGE_LABELS.empty_table(), empty, ["A"], ClassifyConfig())


def test_an_error_of_a_replica_ends_the_training_at_once(local_ray, tmp_path):
    examples, storage = world(), Storage.of(str(tmp_path))
    data = stored(examples, storage)
    config = quick(rate=1e30, backbone_rate=1e30, warmup_epochs=0.0, stage1_epochs=0, replicas=2)
    with pytest.raises(RaymedltError, match="the loss is"):
        train_on_ray(Training("burst", config), data, SETTINGS, LedgerHandle(storage), stream=False, storage=storage)
    attempts = [path.name.rsplit("-", 1)[1] for path in (tmp_path / "_work" / "ray_train").iterdir() if path.is_dir()]
    assert attempts == ["0"]
