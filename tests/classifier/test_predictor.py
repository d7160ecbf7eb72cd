"""`load(folder).predict(images)`: what goes in, what comes out, and what it says when it can't."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from classifier_folder import images, settings_of, stored
from classifier_world import CLASSES, SIZE
from PIL import Image
from scipy.special import expit

from raymedlt.classifier import load
from raymedlt.classifier.evaluation import mean_logits
from raymedlt.errors import InputError
from raymedlt.images.augment import tta_views
from raymedlt.images.readers import decode, to_square

IMAGES = images()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stored(str(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def classifier(folder: str):
    return load(folder)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


# What goes in


def test_arrays_bytes_and_paths_give_the_same(classifier, tmp_path: Path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(IMAGES[number]))
    expected, classes = classifier.predict(IMAGES[:4])
    assert classes == CLASSES
    assert expected.shape == (4, 3)
    assert expected.dtype == np.float32
    assert ((expected > 0) & (expected < 1)).all()
    assert len({tuple(row) for row in expected.tolist()}) == 4
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for given in (
        list(IMAGES[:4]),
        [image.astype(np.float32) / 255 for image in IMAGES[:4]],
        [png(image) for image in IMAGES[:4]],
        [str(path) for path in paths],
        paths,
        [f"file://{path}" for path in paths],
        [IMAGES[0], png(IMAGES[1]), str(paths[2]), paths[3]],
    ):
        np.testing.assert_array_equal(classifier.predict(given).probabilities, expected)


def test_an_image_of_another_size_is_made_ready_as_in_training(classifier):
    large = np.kron(IMAGES[0], np.ones((3, 2), np.uint8))
    prepared = classifier.prepare([large, png(large)])
    np.testing.assert_array_equal(prepared[0], to_square(decode(png(large), max_pixels=10**6), SIZE, "pad"))
    np.testing.assert_array_equal(prepared[0], prepared[1])


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "empty file"),
        (b"GIF89a", "not an image"),
        (png(IMAGES[0])[:100], "corrupt png"),
        ("/nowhere/at/all.png", "file not found"),
        ("", "file not found"),
        ("nothing://bucket/image.png", "file not found"),
        (np.zeros((4, 4, 3), np.uint8), r"an array of shape \(4, 4, 3\)"),
        (np.zeros((4, 4), np.int32), "an array of int32"),
        (np.full((4, 4), 1.5), "an array of float64"),
        (np.full((4, 4), np.nan), "an array of float64"),
        (None, "no image"),
        (7, "a value of type int"),
    ],
)
def test_what_is_no_image_is_named_by_its_position(classifier, image, reason):
    with pytest.raises(InputError, match=f"1 of 3 images can't be read .1: {reason}"):
        classifier.predict([IMAGES[0], image, IMAGES[1]])


def test_too_many_pixels(folder):
    few = load(folder)
    few.about["images"]["max_pixels"] = 1000
    with pytest.raises(InputError, match="too many pixels: 1024"):
        few.predict([png(IMAGES[0])])


@pytest.mark.parametrize("one", ["image.png", Path("image.png"), b"bytes of an image"])
def test_one_image_is_no_list_of_images(classifier, one):
    with pytest.raises(InputError, match=r"one image .* Expected: a list of images"):
        classifier.predict(one)


def test_no_images(classifier):
    with pytest.raises(InputError, match="no images"):
        classifier.predict([])


# What comes out


def test_a_bad_image_does_not_stop_the_others(classifier):
    expected = classifier.predict(IMAGES[:2]).probabilities
    probabilities, reasons = classifier.predict_each([IMAGES[0], b"", IMAGES[1], None])
    assert reasons == ["", "empty file", "", "no image"]
    np.testing.assert_array_equal(probabilities[[0, 2]], expected)
    assert np.isnan(probabilities[[1, 3]]).all()
    nothing, reasons = classifier.predict_each([None])
    assert nothing.shape == (1, 3)
    assert classifier.predict_each([])[0].shape == (0, 3)


def test_the_digits_of_an_image_do_not_depend_on_the_others(classifier):
    """Batches are of 16 images here: alone, among 20, last, and beside other neighbours."""
    among = classifier.predict(IMAGES).probabilities
    for number in (0, 3, 15, 16, 19):
        np.testing.assert_array_equal(classifier.predict(IMAGES[[number]]).probabilities[0], among[number])
    np.testing.assert_array_equal(classifier.predict(IMAGES[::-1]).probabilities[::-1], among)
    others = np.concatenate([IMAGES[:1], np.full((15, SIZE, SIZE), 255, np.uint8)])
    np.testing.assert_array_equal(classifier.predict(others).probabilities[0], among[0])


def test_the_probabilities_are_the_calibrated_logits(classifier):
    with torch.inference_mode():
        logits = classifier.members[0](torch.from_numpy(IMAGES).unsqueeze(1)).logits_BC.double().numpy()
    own = classifier.calibration
    expected = expit(logits * np.array(own.scale) + np.array(own.intercept))
    np.testing.assert_allclose(classifier.predict(IMAGES).probabilities, expected, atol=1e-5)
    assert classifier.thresholds.shape == (3,)


def test_an_ensemble_with_test_time_views(tmp_path):
    ensemble = load(stored(str(tmp_path), settings_of(tta=True, members=2)))
    assert len(ensemble.members) == 2
    views = tta_views(torch.from_numpy(IMAGES).unsqueeze(1).float() / 255)
    with torch.inference_mode():
        logits = [np.mean([each(view).logits_BC.numpy() for view in views], axis=0) for each in ensemble.members]
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    expected = ensemble.calibration.apply(mean_logits(logits))
    np.testing.assert_allclose(ensemble.predict(IMAGES).probabilities, expected, atol=1e-5)


def test_maps_are_one_for_each_class_and_sum_to_one(classifier, tmp_path):
    maps = classifier.maps(classifier.prepare(IMAGES[:5]))
    assert maps.shape[:2] == (5, 3)
    assert maps.shape[2] == maps.shape[3] < SIZE
    assert (maps >= 0).all()
    np.testing.assert_allclose(maps.sum((2, 3)), 1, atol=1e-5)
    plain = load(stored(str(tmp_path), settings_of(attention="off")))
    assert plain.maps(plain.prepare(IMAGES[:1])) is None


# The folder


def test_the_folder_model_can_be_given_itself(classifier, folder):
    again = load(f"{folder}/model")
    np.testing.assert_array_equal(again.predict(IMAGES[:2]).probabilities, classifier.predict(IMAGES[:2]).probabilities)


def test_an_unfinished_run_and_another_format_are_errors(tmp_path):
    with pytest.raises(InputError, match=r"no classifier\.json in .*give its command again"):
        load(str(tmp_path))
    stored(str(tmp_path))
    file = tmp_path / "model" / "classifier.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(InputError, match=r"format 2\. Expected: format 1"):
        load(str(tmp_path))
