"""What names the input of a run, and what a tail without classes is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from classifier_world import quick, world

from raymedlt.classifier.config import ClassifyConfig, ModelConfig
from raymedlt.classifier.evaluation import evaluate
from raymedlt.classifier.finish import data_hash
from raymedlt.classifier.outcome import _ablation
from raymedlt.classifier.report import UNDEFINED
from raymedlt.images.config import ImageLabelsConfig, ImagesConfig
from raymedlt.schema import TEST, VALIDATION


def test_the_input_is_named_by_labels_images_and_weights(tmp_path):
    images, labels, weights = tmp_path / "images", tmp_path / "labels.csv", tmp_path / "start.safetensors"
    images.mkdir()
    (images / "a.png").write_bytes(b"12")
    labels.write_text("a")
    weights.write_bytes(b"1")
    config = ClassifyConfig(
        images=ImagesConfig(path=str(images)), labels=ImageLabelsConfig(path=str(labels)),
        model=ModelConfig(weights=str(weights)), output=str(images / "run"),
    )  # fmt: skip
    found = [data_hash(config)]
    (images / "run").mkdir()
    (images / "run" / "report.html").write_bytes(b"the run's own output is no input")
    assert data_hash(config) == found[0]
    for change in (
        lambda: weights.write_bytes(b"2"),
        lambda: labels.write_text("b"),
        lambda: (images / "a.png").write_bytes(b"123"),
        lambda: (images / "b.png").write_bytes(b"1"),
    ):
        change()
        found.append(data_hash(config))
    assert len(set(found)) == 5


def test_a_tail_without_classes_has_no_figure():
    examples = world()
    config = replace(quick(), split=replace(quick().split, tail_up_to=0.0, head_above=0.01))
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(len(examples.rows(split)), 3)).astype(np.float32) for split in (VALIDATION, TEST)]
    full = evaluate(examples, *logits, config)
    assert set(full.groups.values()) == {"head"}
    rows = _ablation(full, {"other": evaluate(examples, *(each[:, ::-1].copy() for each in logits), config)})
    assert [row.tail for row in rows] == [UNDEFINED, UNDEFINED]
    assert [row.tail_difference for row in rows] == [None, None]
    assert rows[1].macro_difference is not None
