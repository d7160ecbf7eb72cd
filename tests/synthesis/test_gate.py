"""The gate as a whole: verdicts with reasons, a folder that is whole or doesn't load, nothing that passes unchecked."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from classifier_world import CLASSES
from gate_world import pictures, stored_classifier
from PIL import Image

from raymedlt.classifier import load
from raymedlt.errors import ConfigError, ConsistencyError, InputError
from raymedlt.ledger import Ledger
from raymedlt.machine import Settings
from raymedlt.seeds import generator
from raymedlt.storage import Storage, sha256_of
from raymedlt.synthesis import Gate, GateSettings, Verdict
from raymedlt.synthesis.judging import Judge, MakeJudge, accept
from raymedlt.synthesis.planted import plant
from raymedlt.synthesis.sampler import encode_png

TRAIN, HELD_OUT, FRESH = pictures(120, "train"), pictures(100, "held out"), pictures(30, "fresh")
SETTINGS = GateSettings(fingerprint=64, stray=0.1)


def labels_of(classifier, images: np.ndarray) -> np.ndarray:
    """What the classifier, whose weights are random, finds above the held-out median: labels that it agrees with."""
    middle = np.median(classifier.probabilities(HELD_OUT), axis=0)
    return (classifier.probabilities(images) > middle).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return stored_classifier(str(tmp_path_factory.mktemp("classifier")))


@pytest.fixture(scope="module")
def gate(run) -> Gate:
    labels = labels_of(load(run), HELD_OUT)
    return Gate.fit(run, TRAIN, HELD_OUT, labels, np.ones_like(labels, bool), settings=SETTINGS, seed=3)


@pytest.fixture(scope="module")
def folder(gate, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("gate"))
    gate.save(path)
    return path


def sets_of(gate: Gate, images: np.ndarray) -> list[list[str]]:
    """Label sets that the classifier agrees with, strictly."""
    rows = gate.classifier.probabilities(images) >= gate.agreement.shown_C
    return [[name for name, shows in zip(CLASSES, row, strict=True) if shows] for row in rows]


@pytest.fixture(scope="module")
def good(gate) -> tuple[np.ndarray, list[list[str]]]:
    """Fresh images that show something, with what they show."""
    label_sets = sets_of(gate, FRESH)
    rows = [row for row, labels in enumerate(label_sets) if labels]
    return FRESH[rows], [label_sets[row] for row in rows]


def same(first: list[Verdict], second: list[Verdict]) -> bool:
    return first == second


# Verdicts


def test_real_looking_images_that_show_their_labels_pass(gate, good):
    verdicts = gate.check(*good)
    assert np.mean([verdict.accepted for verdict in verdicts]) >= 0.6
    for verdict in verdicts:
        assert verdict.accepted == (not verdict.reasons)
        assert verdict.scores.keys() >= {"shown", "distance", "copy"}
        assert verdict.scores["shown"] >= 0
        assert 0 <= verdict.nearest < len(TRAIN)


def test_copies_of_training_images_are_refused(gate):
    rng = generator(0, "copies")
    copies = np.stack([plant(TRAIN[row], "all", rng) for row in range(12)])
    verdicts = gate.check(copies, sets_of(gate, copies))
    assert all("copy of a training image" in verdict.reasons for verdict in verdicts)
    assert [verdict.nearest for verdict in verdicts] == list(range(12))
    assert max(verdict.scores["copy"] for verdict in verdicts) < gate.copies.threshold


def test_images_unlike_real_ones_are_refused(gate):
    noise = generator(0, "noise").integers(0, 256, (4, 64, 64)).astype(np.uint8)
    stripes = np.stack(
        [np.tile(np.repeat([0, 255], width).astype(np.uint8), (64, 64 // width // 2)) for width in (2, 8)]
    )
    for verdict in gate.check(np.concatenate([noise, stripes]), [[CLASSES[0]]] * 6):
        assert "unlike real images" in verdict.reasons
        assert verdict.scores["distance"] > 1


def test_images_that_show_nothing_or_are_none(gate):
    flat = [np.zeros((64, 64), np.uint8), np.full((64, 64), 100, np.uint8), np.full((64, 64), 255, np.uint8)]
    verdicts = gate.check([*flat, b"no image", np.full((64, 64), np.nan)], [[CLASSES[0]]] * 5)
    assert [verdict.reasons[0] for verdict in verdicts] == [
        "black image", "flat image", "flat image", "unreadable image", "unreadable image",
    ]  # fmt: skip
    assert not any(verdict.accepted for verdict in verdicts)
    assert verdicts[3] == Verdict(False, ["unreadable image"], {}, -1)


def test_labels_that_are_not_shown(gate, good):
    images, label_sets = good
    wrong = [[name for name in CLASSES if name not in labels] or ["Nothing known"] for labels in label_sets]
    for verdict, labels in zip(gate.check(images, wrong), wrong, strict=True):
        assert not verdict.accepted
        if labels == ["Nothing known"]:
            assert verdict.reasons[0] == "class unknown to the gate: Nothing known"
        else:
            assert verdict.reasons[0].startswith("not shown: ")


def test_of_repeats_the_first_stays(gate, good):
    images, label_sets = good
    passed = [row for row, verdict in enumerate(gate.check(*good)) if verdict.accepted][:3]
    order = [passed[0], passed[1], passed[0], passed[2], passed[1]]
    verdicts = gate.check(images[order], [label_sets[row] for row in order])
    assert [verdict.reasons for verdict in verdicts] == [[], [], ["repeat"], [], ["repeat"]]


def test_a_set_checked_in_parts_gets_the_same_verdicts(gate, good):
    images, label_sets = np.concatenate([good[0], good[0][:2]]), [*good[1], *good[1][:2]]
    whole = gate.check(images, label_sets)
    parts = [gate.judge(images[part], label_sets[part]) for part in (slice(0, 5), slice(5, None))]
    verdicts = [verdict for part in parts for verdict in part.verdicts]
    again = gate.are_repeats(
        np.concatenate([part.vectors_BD for part in parts]), np.array([verdict.accepted for verdict in verdicts])
    )
    assert again.tolist() == [verdict.reasons == ["repeat"] for verdict in whole]
    assert again.any()
    assert same(
        [one for one, n in zip(verdicts, again, strict=True) if not n],
        [one for one in whole if one.reasons != ["repeat"]],
    )


def test_the_table_images_has_the_same_verdicts_however_the_set_is_cut(gate, good, tmp_path):
    images = [encode_png(image) for image in np.concatenate([good[0], good[0][:4]])]
    rows = [
        {"row_id": f"r{number}", "label_set": labels, "target": labels[0], "image": {"bytes": data, "path": ""},
         "sha256": sha256_of(data), "broken": "black" if number == 1 else ""}
        for number, (data, labels) in enumerate(zip(images, [*good[1], *good[1][:4]], strict=True))
    ]  # fmt: skip
    tables = []
    for size in (3, len(rows)):
        storage = Storage.of(str(tmp_path / str(size)))
        with Ledger.open(storage, config_hash="", config={}, data_hash="") as ledger:
            shards = {f"{start:03d}": rows[start : start + size] for start in range(0, len(rows), size)}
            judge = Judge(MakeJudge(ledger.worker(), "", Settings("cpu", "float32", 1), 1), gate)
            for shard, own in shards.items():
                storage.write_table(f"plan/{shard}.parquet", pa.Table.from_pylist(own))
                storage.write_table(f"_work/drawn/{shard}.parquet", pa.Table.from_pylist(own))
                judge(shard)
            summary = accept(list(shards), gate, ledger)
        tables.append(storage.read_folder("images"))
    assert tables[0].equals(tables[1])
    whole = gate.check(images, [row["label_set"] for row in rows], [row["target"] for row in rows])
    found = tables[0].to_pylist()
    assert found[1]["reasons"] == ["black"]  # refused for what the drawing found, so its repeat isn't one
    assert whole[-3].reasons == ["repeat"]
    assert not found[-3]["reasons"]
    others = [number for number in range(len(rows)) if number not in (1, len(rows) - 3)]
    assert [found[number]["reasons"] for number in others] == [whole[number].reasons for number in others]
    assert [row["accepted"] for row in found] == [not row["reasons"] for row in found]
    assert [(row["row_id"], row["image"]["bytes"]) for row in found] == [
        (r["row_id"], r["image"]["bytes"]) for r in rows
    ]
    assert summary["drawn"] == len(rows)
    assert summary["accepted"] == sum(row["accepted"] for row in found)
    assert summary["reasons"] == {"black": 1, "repeat": sum(row["reasons"] == ["repeat"] for row in found)}


def test_targets_are_strict_and_companions_less(gate, good):
    images, label_sets = good
    no_companion_fails = dataclasses.replace(gate.agreement, companion_C=np.zeros(len(CLASSES)))
    easy = dataclasses.replace(gate, agreement=no_companion_fails)

    def missing(targets: list[str] | None) -> int:
        verdicts = easy.judge(images, [CLASSES] * len(images), targets).verdicts
        return sum(reason.startswith("not shown") for verdict in verdicts for reason in verdict.reasons)

    assert missing([labels[0] for labels in label_sets]) == 0
    assert missing(None) > 0


def test_files_and_arrays_are_the_same_images(gate, good):
    buffer = io.BytesIO()
    Image.fromarray(good[0][0]).save(buffer, "PNG")
    assert same(gate.check([buffer.getvalue()], good[1][:1]), gate.check(good[0][:1], good[1][:1]))


def test_one_label_set_per_image(gate):
    with pytest.raises(InputError, match="1 label sets and 1 targets for 2 images"):
        gate.check(FRESH[:2], [["Square"]])
    assert gate.check([], []) == []


# The folder


def test_a_stored_gate_gives_the_same_verdicts(gate, folder, good):
    again = Gate.load(folder)
    assert again.settings == SETTINGS
    assert again.about == gate.about
    assert same(again.check(*good), gate.check(*good))


def test_it_needs_the_classifier_s_folder_no_more(run, gate, tmp_path, good):
    moved = shutil.copytree(run, tmp_path / "run")
    labels = labels_of(load(run), HELD_OUT)
    own = Gate.fit(str(moved / "model"), TRAIN, HELD_OUT, labels, np.ones_like(labels, bool), settings=SETTINGS, seed=3)
    own.save(str(tmp_path / "gate"))
    shutil.rmtree(moved)
    assert same(Gate.load(str(tmp_path / "gate")).check(*good), gate.check(*good))


@pytest.mark.parametrize("name", ["gate.safetensors", "classifier/classifier.json", "classifier/member-0.safetensors"])
def test_a_file_that_is_missing_or_changed_is_noticed(folder, tmp_path, name):
    own = Path(shutil.copytree(folder, tmp_path / "gate"))
    data = (own / name).read_bytes()
    (own / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ConsistencyError, match=f"gate's file '{name}' is missing or differs"):
        Gate.load(str(own))
    (own / name).unlink()
    with pytest.raises(ConsistencyError, match="missing or differs"):
        Gate.load(str(own))


def test_no_gate_and_another_format(folder, tmp_path):
    with pytest.raises(InputError, match=r"no gate\.json"):
        Gate.load(str(tmp_path))
    about = json.loads((Path(folder) / "gate.json").read_text())
    (tmp_path / "gate.json").write_text(json.dumps({**about, "format": 3}))
    with pytest.raises(InputError, match=r"format 3\. Expected: format 2"):
        Gate.load(str(tmp_path))


def test_the_folder_holds_no_image_and_no_pickle(folder):
    names = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
    assert names == ["classifier/classifier.json", "classifier/member-0.safetensors", "gate.json", "gate.safetensors"]


# What it refuses to be fitted on


def test_a_classifier_that_saw_synthetic_images(run, tmp_path):
    own = Path(shutil.copytree(run, tmp_path / "run"))
    (own / "config.yaml").write_text("synthetic:\n  path: runs/synthesize\n")
    with pytest.raises(InputError, match="trained on synthetic images"):
        Gate.fit(str(own), TRAIN, HELD_OUT, np.zeros((100, 3)), np.ones((100, 3), bool))


def test_labels_of_other_classes(run):
    with pytest.raises(InputError, match=r"labels of shape \(100, 2\) for 100 images and 3 classes"):
        Gate.fit(run, TRAIN, HELD_OUT, np.zeros((100, 2)), np.ones((100, 2), bool))


def test_no_classifier(tmp_path):
    with pytest.raises(InputError, match=r"no classifier\.json"):
        Gate.fit(str(tmp_path), TRAIN, HELD_OUT, np.zeros((100, 3)), np.ones((100, 3), bool))


def test_too_few_held_out_images_for_the_limit_of_outliers(run):
    with pytest.raises(InputError, match="120 training and 98 held-out images"):
        Gate.fit(run, TRAIN, HELD_OUT[:98], np.zeros((98, 3)), np.ones((98, 3), bool), settings=SETTINGS)


@pytest.mark.parametrize(
    "settings", [{"precision": 1.0}, {"false_copies": 0}, {"false_outliers": 0.5}, {"stray": -0.1}, {"neighbours": 0}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(ConfigError, match=f"gate.{next(iter(settings))} is"):
        GateSettings(**settings)


def test_thresholds_rise_for_a_generator_that_misses(gate, folder):
    """The same after loading, since the evidence lies in the folder."""
    name = next(each for each, limit in zip(gate.agreement.classes, gate.agreement.shown_C, strict=True) if limit > 0)
    number = gate.agreement.classes.index(name)
    low = np.full(50, gate.agreement.shown_C[number] / 10)
    low[:2] = [1.0, np.nan]
    strict, priors = gate.for_drawn([name] * 50, low)
    assert 0 < priors[name] < 0.2
    assert strict.agreement.shown_C[number] >= gate.agreement.shown_C[number]
    others = np.arange(len(CLASSES)) != number
    assert (strict.agreement.shown_C[others] == gate.agreement.shown_C[others]).all()
    again, same_priors = Gate.load(folder).for_drawn([name] * 50, low)
    assert same_priors == priors
    assert again.agreement.to_json() == strict.agreement.to_json()
    below = strict.agreement.below([name] * 50, low)
    assert below[2:].all()
    assert not below[1]  # not known: refused for another reason
