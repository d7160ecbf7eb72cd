"""Checkpoints: what is kept, what is refused, what a kill in between leaves."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
import torch
from language_world import SETTINGS, Batches, Killed, quick, run, tiny

from raymedlt.errors import ConsistencyError, InputError
from raymedlt.finetuning.engines import Piece, World
from raymedlt.finetuning.state import LATEST, Checkpoints, Pieces, Position, best_files, put_best
from raymedlt.finetuning.training import train
from raymedlt.storage import Storage

WORLD = World(0, 1)


class DyingWorld(World):
    """Is killed when its files are written and don't count yet."""

    def gather(self, mine):
        raise Killed


class Numbers:
    """Stands for an engine: a parameter "w" of ten numbers, in two pieces."""

    kinds: ClassVar = ("weight", "exp_avg", "exp_avg_sq")

    def __init__(self, first: float = 0.0) -> None:
        self.values = torch.arange(10.0) + first

    def pieces(self):
        for kind in self.kinds:
            yield Piece(kind, "w", 4, self.values[4:].clone())
            yield Piece(kind, "w", 0, self.values[:4].clone())


class Ten(torch.nn.Module):
    def __init__(self, rows: int = 5) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(rows, 2))


def kept(tmp_path, *, better: bool = True) -> Storage:
    storage = Storage.of(str(tmp_path))
    Checkpoints(storage, WORLD).write(Position(steps=3), Numbers(), better=better)
    return storage


def test_any_range_can_be_read(tmp_path):
    checkpoints = Checkpoints(kept(tmp_path), WORLD)
    assert checkpoints.read() == Position(steps=3)
    with checkpoints.pieces() as pieces:
        assert pieces.sizes("exp_avg") == {"w": 10}
        for start, stop in ((0, 10), (2, 3), (3, 7), (5, 9), (9, 10)):
            assert pieces.read("exp_avg", "w", start, stop).tolist() == list(range(start, stop))
        model = Ten()
        pieces.put_weights(model)
    assert model.w.tolist() == torch.arange(10.0).view(5, 2).tolist()


def test_what_was_not_kept(tmp_path):
    storage = Storage.of(str(tmp_path))
    with Pieces(storage, []) as pieces, pytest.raises(ConsistencyError, match="numbers from 2 on of the weight of 'w'"):
        pieces.read("weight", "w", 2, 4)


@pytest.mark.parametrize("name", ["weights-000003-0of1.safetensors", "moments-000003-0of1.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_a_damaged_file_is_refused(tmp_path, name, damage):
    storage = kept(tmp_path)
    path = tmp_path / name
    if damage == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises(ConsistencyError, match=f"'{name}' differs from its sha256"):
        Checkpoints(storage, WORLD).read()


def test_the_best_epoch_stays_and_the_rest_goes(tmp_path):
    storage = kept(tmp_path)
    checkpoints = Checkpoints(storage, WORLD)
    checkpoints.read()
    checkpoints.write(Position(steps=4), Numbers(100), better=False)
    assert storage.list_files() == [
        LATEST, "moments-000004-0of1.safetensors", "weights-000003-0of1.safetensors", "weights-000004-0of1.safetensors",
    ]  # fmt: skip
    model = Ten()
    put_best(storage, model)
    assert model.w[0, 1] == 1
    checkpoints.write(Position(steps=5, finished=True), Numbers(200), better=False)
    assert storage.list_files() == [LATEST, "weights-000003-0of1.safetensors"]
    (entry,) = best_files(Storage.of(str(tmp_path.parent)), tmp_path.name)
    assert entry.name == f"{tmp_path.name}/weights-000003-0of1.safetensors"
    assert entry.bytes == (tmp_path / "weights-000003-0of1.safetensors").stat().st_size


def test_a_writer_that_died_in_between_leaves_the_one_before(tmp_path):
    storage = kept(tmp_path)
    storage.write_bytes("weights-000004-0of1.safetensors", b"half of the replicas were done")
    checkpoints = Checkpoints(storage, WORLD)
    assert checkpoints.read() == Position(steps=3)
    checkpoints.write(Position(steps=4), Numbers(50), better=False)
    assert checkpoints.read() == Position(steps=4)


def test_another_number_of_replicas_writes_over_nothing_that_counts(tmp_path):
    storage = kept(tmp_path)
    before = {name: storage.read_bytes(name) for name in storage.list_files() if name != LATEST}
    with pytest.raises(Killed):
        Checkpoints(storage, DyingWorld(0, 2)).write(Position(steps=3), Numbers(50), better=True)
    assert {name: storage.read_bytes(name) for name in before} == before
    assert Checkpoints(storage, WORLD).read() == Position(steps=3)


def test_another_model_is_refused(tmp_path):
    checkpoints = Checkpoints(kept(tmp_path), WORLD)
    checkpoints.read()
    with checkpoints.pieces() as pieces:
        with pytest.raises(InputError, match="a checkpoint of another model: 1 parameters differ, such as 'w'"):
            pieces.put_weights(Ten(6))
        with pytest.raises(InputError, match="of another model"):
            pieces.put_weights(tiny())


def test_no_epoch_has_ended(tmp_path):
    with pytest.raises(InputError, match="no finished epoch"):
        put_best(Storage.of(str(tmp_path)), Ten())
    with pytest.raises(InputError, match="no finished epoch"):
        put_best(kept(tmp_path, better=False), Ten())


def test_files_hold_numbers_and_json_alone(tmp_path):
    run(str(tmp_path), {"epochs": 1})
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    latest = json.loads((tmp_path / LATEST).read_text())
    assert latest["position"]["finished"]
    assert latest["state"] == []


def test_a_kill_while_writing(tmp_path, monkeypatch):
    """The files of a checkpoint are there, latest.json still names the one before."""
    whole = run(str(tmp_path / "whole"), {})
    folder, write = Storage.of(str(tmp_path / "killed")), Storage.write_bytes
    written = 0

    def dying(self, name, data, rows=0):
        nonlocal written
        written += name == LATEST
        if name == LATEST and written == 5:
            raise Killed
        return write(self, name, data, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_bytes", dying)
        with pytest.raises(Killed):
            train(tiny(), Batches(), quick(), SETTINGS, folder, seed=1)
    again = train(tiny(), Batches(), quick(), SETTINGS, folder, seed=1).history
    drop = ("seconds", "waited_for_data")
    assert [{k: v for k, v in line.items() if k not in drop} for line in again] == [
        {k: v for k, v in line.items() if k not in drop} for line in whole
    ]
