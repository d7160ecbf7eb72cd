"""What a finished run measures of its images: sets with the same mix of classes, and figures beside the floor."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from gate_world import pictures

from raymedlt.images.examples import Examples, PixelShards
from raymedlt.schema import TRAIN, VALIDATION
from raymedlt.synthesis.features import lite0_features
from raymedlt.synthesis.measuring import Found, likenesses, same_mix
from raymedlt.synthesis.quality import kid
from raymedlt.synthesis.warnings import is_far

RARE, COMMON = "rare", "common"
TRAINING = {RARE: 20, COMMON: 40}
HELD_OUT = {RARE: 12, COMMON: 26}
ACCEPTED = {RARE: 30, COMMON: 6}


def look(name: str, count: int, key: str) -> np.ndarray:
    """The rare class is dark on the right, so that nobody takes the two for one."""
    images = pictures(count, f"{key} {name}").copy()
    if name == RARE:
        images[:, :, 32:] //= 4
    return images


@pytest.fixture(scope="module")
def world() -> tuple[Examples, Found]:
    """Real images, most of them of the common class, and accepted ones that are as real, most of the rare class."""
    parts = [
        (split, name, look(name, count, split))
        for split, counts in ((TRAIN, TRAINING), (VALIDATION, HELD_OUT))
        for name, count in counts.items()
    ]
    splits = np.array([split for split, _, images in parts for _ in images], object)
    names = np.array([name for _, name, images in parts for _ in images], object)
    ids = np.array([f"i{row}" for row in range(len(splits))], object)
    labels = np.stack([names == RARE, names == COMMON], axis=1).astype(np.float32)
    examples = Examples(
        image_ids=ids, patient_ids=ids, splits=splits, sources=ids, labels_NC=labels,
        known_NC=np.ones(labels.shape, bool), synthetic=np.zeros(len(ids), bool),
        pixels=PixelShards.of([np.concatenate([images for _, _, images in parts])]), classes=(RARE, COMMON),
    )  # fmt: skip
    targets = [name for name, count in ACCEPTED.items() for _ in range(count)]
    accepted = np.concatenate([look(name, count, "accepted") for name, count in ACCEPTED.items()])
    return examples, Found(images=list(accepted), targets=targets)


def test_all_together_compares_the_same_mix_of_classes(world):
    examples, found = world
    every, each = likenesses(found, examples, seed=0, device="cpu")
    assert (every.compared, each[RARE].compared, each[COMMON].compared) == (12 + 6, 12, 6)
    for likeness in (every, *each.values()):
        assert not is_far(likeness)
        assert likeness.synthetic.kid_error > 0
        assert likeness.real.kid_error > 0
    # Without it images as real as these look far from real.
    features = lite0_features(np.stack(found.images)).astype(np.float64)
    train, held_out = (
        lite0_features(examples.pixels.take(examples.rows(split))).astype(np.float64) for split in (TRAIN, VALIDATION)
    )
    floor = every.real.kid + 2 * every.real.kid_error
    assert kid(train, features) > 5 * abs(kid(train, held_out))
    assert kid(train, features) > 2 * floor
    assert abs(every.synthetic.kid) < floor


def test_too_few_real_images_are_said(world):
    examples, found = world
    few = np.flatnonzero((examples.splits == VALIDATION) & (examples.labels_NC[:, 0] > 0))[5:]
    known = examples.known_NC.copy()
    known[few, 0] = False  # nobody knows what these show
    every, each = likenesses(found, dataclasses.replace(examples, known_NC=known), seed=0, device="cpu")
    assert each[RARE].why == "20 real training, 5 held-out and 30 accepted images show it"
    assert each[RARE].synthetic.kid is None
    assert every.compared == 5 + 6
    none, nothing = likenesses(Found(), examples, seed=0, device="cpu")
    assert (none.why, nothing) == ("no accepted image", {})


def test_same_mix_takes_as_many_of_each_class_from_every_set_and_no_row_twice():
    sets = {
        "a": [np.arange(0, 30), np.arange(100, 108), np.arange(10)],
        "b": [np.arange(25, 60), np.arange(104, 140), np.arange(10, 40)],  # 25 to 29 and 104 to 107 show both
        "c": [np.arange(60, 70), np.arange(0), np.arange(40, 50)],
    }
    train, held_out, drawn = same_mix(sets)
    assert len(train) == len(held_out) == len(drawn) == 8 + 30
    for chosen in (train, held_out, drawn):
        assert len(set(chosen.tolist())) == len(chosen)
    assert sum(row < 10 for row in drawn) == 8  # of a, which has the fewer and chooses first
    assert set(range(100, 108)) <= set(held_out.tolist())
    assert not (set(train.tolist()) & set(range(60, 70)))  # c has no held-out image, so that it has no part
