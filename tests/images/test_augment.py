"""Augmentation: decided by an image's own key, whatever it is batched with."""

import dataclasses

import numpy as np
import pytest
import torch

from raymedlt.errors import InputError
from raymedlt.images.augment import VIEWS, augment, clahe, tta_views
from raymedlt.images.config import AugmentConfig
from raymedlt.seeds import keyed_seed

NOTHING = AugmentConfig(rotate=0, shift=0, scale=0, contrast=0, noise=0, dropout=0, clahe=0, flip=False)
EVERYTHING = AugmentConfig(dropout=0.5, clahe=0.5, flip=True)


def images(count=64, size=64):
    """Smooth blobs, so that warps and contrast have something to act on."""
    rng = np.random.default_rng(5)
    coarse = torch.from_numpy(rng.random((count, 1, 6, 6), np.float32))
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return (fine[:, 0] * 255).to(torch.uint8)


def keys(count=64, epoch=0):
    return [keyed_seed(0, "augment", epoch, 0, f"image{n}") for n in range(count)]


def changed(**amounts):
    return dataclasses.replace(NOTHING, **amounts)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def test_nothing_changes_nothing():
    x = images()
    assert same(augment(x, keys(), NOTHING), x.to(torch.float32).unsqueeze(1) / 255)
    assert augment(x, keys(), NOTHING).numpy().tobytes() == (x.numpy() / np.float32(255)).tobytes()
    unit = x.to(torch.float32) / 255
    assert same(augment(unit, keys(), NOTHING), unit.unsqueeze(1))


def test_the_images_given_stay_as_they_are():
    unit = images(8).to(torch.float32) / 255
    before = unit.clone()
    augment(unit, keys(8), EVERYTHING)
    tta_views(unit.unsqueeze(1))
    assert same(unit, before)


@pytest.mark.parametrize("size", [33, 64, 130])
def test_an_image_comes_out_the_same_alone_in_any_batch_and_in_any_order(size):
    x, all_keys = images(19, size), keys(19)
    whole = augment(x, all_keys, EVERYTHING)
    for number in range(19):
        assert same(augment(x[number : number + 1], all_keys[number : number + 1], EVERYTHING)[0], whole[number])
    order = np.random.default_rng(0).permutation(19)
    shuffled = augment(x[order], [all_keys[n] for n in order], EVERYTHING)
    assert same(shuffled, whole[order])
    assert same(augment(x[3:10], all_keys[3:10], EVERYTHING), whole[3:10])


def test_threads_do_not_change_the_result():
    x, threads = images(), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = augment(x, keys(), EVERYTHING)
        torch.set_num_threads(3)
        assert same(augment(x, keys(), EVERYTHING), one)
    finally:
        torch.set_num_threads(threads)


def test_another_epoch_is_another_change_and_all_stays_in_range():
    x = images()
    first, second = augment(x, keys(), EVERYTHING), augment(x, keys(epoch=1), EVERYTHING)
    assert all(not same(first[n], second[n]) for n in range(64))
    for result in (first, second):
        assert result.dtype == torch.float32
        assert result.shape == (64, 1, 64, 64)
        assert 0 <= result.min() < result.max() <= 1


def test_switching_one_change_off_leaves_the_others():
    x, chosen = images(), keys()
    dropped = augment(x, chosen, changed(dropout=0.5)) == 0
    with_noise = augment(x, chosen, changed(dropout=0.5, noise=0.02))
    boxes = dropped & (augment(x, chosen, NOTHING) > 0)
    assert boxes.any()
    assert (with_noise[boxes] == 0).all()


def test_every_amount_has_its_effect_and_its_share():
    x, plain = images(), augment(images(), keys(), NOTHING)
    for amounts in (dict(rotate=8), dict(shift=0.06), dict(scale=0.1), dict(contrast=0.2), dict(noise=0.02)):
        result = augment(x, keys(), changed(**amounts))
        assert all(not same(result[n], plain[n]) for n in range(64)), amounts
    for amounts in (dict(clahe=0.25), dict(dropout=0.25)):
        result = augment(x, keys(), changed(**amounts))
        assert 5 <= sum(not same(result[n], plain[n]) for n in range(64)) <= 27, amounts
    flips = augment(x, keys(), changed(flip=True))
    states = [(same(flips[n], plain[n]), same(flips[n], plain[n].flip(-1))) for n in range(64)]
    assert all(a != b for a, b in states)
    assert 16 <= sum(b for _, b in states) <= 48


def test_amounts_are_bounds():
    x = torch.full((64, 64, 64), 128, dtype=torch.uint8)
    contrast = augment(x, keys(), changed(contrast=0.2))
    assert contrast.max() <= (128 / 255 * 1.2 - 0.5) * 1.2 + 0.5 + 1e-6
    noise = augment(x, keys(), changed(noise=0.02)) - 128 / 255
    spread = noise.std(dim=(1, 2, 3))
    assert 0.015 < spread.max() < 0.0206
    assert spread.min() < 0.005
    assert noise.mean().abs() < 0.001

    dot = torch.zeros(64, 65, 65, dtype=torch.uint8)
    dot[:, 32, 32] = 255
    moved = augment(dot, keys(), changed(shift=0.06))[:, 0]
    places = torch.arange(65.0) - 32
    total = moved.sum((1, 2))
    across, down = (moved * places).sum((1, 2)) / total, (moved * places[:, None]).sum((1, 2)) / total
    for offset in (across, down):
        assert 0.05 * 65 < offset.abs().max() <= 0.06 * 65 + 1e-3
        assert offset.min() < -2 < 2 < offset.max()
    assert torch.corrcoef(torch.stack([across, down]))[0, 1].abs() < 0.5


def test_rotation_and_scale_are_those_asked_for():
    dots = torch.zeros(64, 65, 65, dtype=torch.uint8)
    dots[:, 32, 56] = 255  # 24 pixels right of the centre
    places = torch.arange(65.0) - 32
    turned = augment(dots, keys(), changed(rotate=8))[:, 0]
    across, down = (turned * places).sum((1, 2)), (turned * places[:, None]).sum((1, 2))
    degrees = torch.rad2deg(torch.atan2(down, across))
    assert 6.5 < degrees.abs().max() <= 8.2
    scaled = augment(dots, keys(), changed(scale=0.1))[:, 0]
    reach = (scaled * places).sum((1, 2)) / scaled.sum((1, 2))
    assert 24 * 0.9 - 0.1 <= reach.min() < 22.5
    assert 25.5 < reach.max() <= 24 * 1.1 + 0.1


def test_clahe_of_one_tile_equals_zuiderveld_by_hand():
    """A constant image: each tile's histogram is one spike, clipped at the limit; the excess is spread evenly."""
    level, limit = 100, 2.0
    image = np.full((1, 32, 32), level / 255, np.float32)
    clipped = limit / 256
    expected = clipped + (1 - clipped) * (level + 1) / 256
    np.testing.assert_allclose(clahe(image, np.array([limit])), expected, atol=1e-6)


def test_clahe_raises_local_contrast_and_a_higher_limit_raises_it_more():
    rng = np.random.default_rng(0)
    x = (0.45 + 0.1 * rng.random((1, 64, 64))).astype(np.float32)
    low, high = (clahe(x, np.array([limit])) for limit in (1.5, 3.0))
    assert x.std() < low.std() < high.std()
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))[None]
    assert np.corrcoef(clahe(ramp, np.array([1.0])).ravel(), ramp.ravel())[0, 1] > 0.99


def test_views_are_small_and_the_first_is_the_image():
    x = images(4).to(torch.float32).unsqueeze(1) / 255
    views = tta_views(x)
    assert len(views) == len(VIEWS) == 5
    assert same(views[0], x)
    assert all(same(a, b) for a, b in zip(views, tta_views(images(4).unsqueeze(1)), strict=True))
    for number, view in enumerate(views[1:], 1):
        assert view.shape == x.shape
        assert 0.01 < (view - x).abs().mean() < 0.2
        assert same(tta_views(x[2:3])[number][0], view[2])
    dot = torch.zeros(1, 1, 65, 65)
    dot[..., 32, 32] = 1
    right_and_down = tta_views(dot)[1][0, 0]
    assert right_and_down[33:35, 33:35].sum() > 0.9


@pytest.mark.parametrize(
    ("x", "count", "message"),
    [
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), 2, r"shape \(2, 1, 8, 8\).*Expected: \[B, S, S\]"),
        (torch.zeros(2, 8, 9, dtype=torch.uint8), 2, r"shape \(2, 8, 9\)"),
        (torch.zeros(2, 8, 8, dtype=torch.float64), 2, "dtype torch.float64.*Expected: uint8, or float32"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), 3, "3 keys for 2 images.*one key per image"),
    ],
)
def test_wrong_input_is_named(x, count, message):
    with pytest.raises(InputError, match=message):
        augment(x, keys(count), NOTHING)


def test_no_image_gives_no_image():
    assert augment(torch.zeros(0, 32, 32, dtype=torch.uint8), [], EVERYTHING).shape == (0, 1, 32, 32)
