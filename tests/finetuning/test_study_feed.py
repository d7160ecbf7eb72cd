"""The steps of an epoch, whoever computes them, and the tensors that are made of them."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from studies_world import SIZE, collate, text_of, world

from raymedlt.errors import ConfigError, InputError
from raymedlt.finetuning.feed import (
    IGNORED,
    Blind,
    MicroBatch,
    make_batch,
    order_of,
    parts_of,
    steps_of,
    thread_feed,
)
from raymedlt.images.augment import augment
from raymedlt.images.config import AugmentConfig
from raymedlt.schema import TRAIN, VALIDATION

STUDIES, EXAMPLES = world()
TRAINING = STUDIES.of(TRAIN)
MANY = world({name: ("Text one.", "Text two.", "Text three.") for name in STUDIES.report_ids})[0]
STILL = AugmentConfig(rotate=0, shift=0, scale=0, contrast=0, noise=0, dropout=0, clahe=0)


def steps(studies=STUDIES, **changed):
    return steps_of(studies, **{"seed": 0, "epoch": 1, "batch": 24, "micro_batch": 8, **changed})


def drawn(epoch) -> list[tuple[int, int, int]]:
    """(study, variant, key) of what counts, in order."""
    return [
        (int(study), int(variant), key)
        for step in epoch
        for part in step.parts
        for study, variant, real, key in zip(part.studies, part.variants, part.real, part.keys, strict=True)
        if real
    ]


def test_every_training_study_once_and_no_other():
    epoch = steps()
    assert sorted(study for study, _, _ in drawn(epoch)) == TRAINING.tolist()
    assert [step.number for step in epoch] == list(range(-(-len(TRAINING) // 24)))
    assert {(len(step.parts), *(len(part.studies) for part in step.parts)) for step in epoch} == {(3, 8, 8, 8)}


def test_the_same_arguments_give_the_same_steps():
    assert drawn(steps()) == drawn(steps())
    for other in ({"seed": 1}, {"epoch": 2}):
        assert [study for study, _, _ in drawn(steps(**other))] != [study for study, _, _ in drawn(steps())], other


def test_an_epoch_draws_one_of_a_studys_texts():
    epochs = [{study: variant for study, variant, _ in drawn(steps(MANY, epoch=epoch))} for epoch in range(30)]
    assert all(list(epoch) != [] and len(epoch) == len(TRAINING) for epoch in epochs)
    counts = Counter(variant for epoch in epochs for variant in epoch.values())
    assert set(counts) == {0, 1, 2}
    assert min(counts.values()) > 0.3 * sum(counts.values()) * 0.9
    chosen = {study: {epoch[study] for epoch in epochs} for study in epochs[0]}
    assert np.mean([len(each) == 3 for each in chosen.values()]) > 0.98  # each study, not only each epoch
    fewer = MANY.take(np.sort(np.random.default_rng(0).permutation(len(MANY))[:60]))
    rest = {fewer.report_ids[study]: variant for study, variant, _ in drawn(steps(fewer, epoch=4))}
    whole = {MANY.report_ids[study]: variant for study, variant in epochs[4].items()}
    assert rest.items() <= whole.items()  # by the report alone


def test_keys_of_the_changes_follow_seed_epoch_and_image():
    keys = [key for epoch in range(4) for _, _, key in drawn(steps(epoch=epoch))]
    assert len(set(keys)) == len(keys)
    assert dict((study, key) for study, _, key in drawn(steps())) == dict(
        (study, key) for study, _, key in drawn(steps(batch=8))
    )


def test_texts_of_a_micro_batch_are_similarly_long():
    def spread(parts) -> float:
        return float(np.mean([np.ptp([STUDIES.tokens[n][0] for n in part.studies]) for part in parts]))

    ours = spread([part for step in steps() for part in step.parts])
    order = np.random.default_rng(0).permutation(TRAINING)[: 8 * (len(TRAINING) // 8)].reshape(-1, 8)
    assert ours < 0.4 * spread([MicroBatch(row, row, row > 0) for row in order])


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ConfigError, match=r"steps of 24 studies in parts of 7\. Expected: a multiple"):
        steps(micro_batch=7)
    with pytest.raises(InputError, match="at least one study"):
        steps(STUDIES.take(STUDIES.of(VALIDATION)))


def test_all_of_a_split_by_length():
    parts = parts_of(STUDIES, VALIDATION, 4)
    own = STUDIES.of(VALIDATION)
    assert sorted(np.concatenate([part.studies[part.real] for part in parts]).tolist()) == own.tolist()
    assert len(parts) == -(-len(own) // 4)
    assert {len(part.studies) for part in parts} == {4}
    lengths = [STUDIES.tokens[n][0] for part in parts for n in part.studies[part.real]]
    assert lengths == sorted(lengths)
    assert all(part.keys == () and not part.variants.any() for part in parts)
    assert parts_of(STUDIES, "no such split", 4) == []


# Tensors


def test_a_batch_is_its_images_and_texts():
    part = MicroBatch(TRAINING[[3, 9, 4]], np.array([1, 0, 2]), np.array([True, True, False]))
    batch = make_batch(EXAMPLES.pixels, order_of(MANY, part), collate, STILL)
    for n, row in enumerate(MANY.image_rows[part.studies]):
        assert torch.equal(batch["pixel_values"][n, 0], torch.full((SIZE, SIZE), float(row)) / 255)
    assert [text_of(labels) for labels in batch["labels"][:2]] == ["Text two.", "Text one."]
    assert (batch["labels"][2] == IGNORED).all()
    assert (batch["input_ids"][2] > 0).any()


def test_images_are_changed_by_their_keys_and_not_without():
    part, changes = steps()[0].parts[0], AugmentConfig()
    batch = make_batch(EXAMPLES.pixels, order_of(STUDIES, part), collate, changes)
    images = torch.from_numpy(EXAMPLES.pixels.take(STUDIES.image_rows[part.studies]))
    assert (batch["pixel_values"] - augment(images, part.keys, changes)).abs().max() <= 0.5 / 255 + 1e-6
    plain = MicroBatch(part.studies, part.variants, part.real)
    batch = make_batch(EXAMPLES.pixels, order_of(STUDIES, plain), collate, changes)
    assert torch.equal(batch["pixel_values"][:, 0], images / 255)


def test_flips_are_refused():
    with pytest.raises(ConfigError, match="the reports of flipped images speak of the wrong side"):
        thread_feed(STUDIES, EXAMPLES.pixels, collate, AugmentConfig(flip=True))


def test_the_blind_control_sees_the_same_grey():
    seen = Blind(SIZE).take(np.arange(3))
    assert seen.shape == (3, SIZE, SIZE)
    assert seen.dtype == np.uint8
    assert (seen == 128).all()


def test_the_thread_gives_the_micro_batches_in_order():
    parts = [part for step in steps() for part in step.parts]
    batches = list(thread_feed(STUDIES, EXAMPLES.pixels, collate, AugmentConfig())(parts))
    assert len(batches) == len(parts)
    for part, batch in zip(parts, batches, strict=True):
        expected = make_batch(EXAMPLES.pixels, order_of(STUDIES, part), collate, AugmentConfig())
        assert batch.keys() == expected.keys() == {"input_ids", "attention_mask", "pixel_values", "labels"}
        assert all(torch.equal(batch[name], expected[name]) for name in batch)
    assert not [thread for thread in threading.enumerate() if thread.name == "feed"]


def test_a_broken_collate_is_raised_here():
    def broken(images, texts):
        raise ValueError("no such token")

    with pytest.raises(ValueError, match="no such token"):
        list(thread_feed(STUDIES, EXAMPLES.pixels, broken, STILL)(steps()[0].parts))
