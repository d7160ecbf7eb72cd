"""The folder is an export of the tiny composed model, with weights as they were born."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raymedlt import finetuning
from raymedlt.errors import InputError
from raymedlt.finetuning.build import build
from raymedlt.finetuning.config import ModelConfig
from raymedlt.finetuning.export import FORMAT, save_model
from raymedlt.finetuning.predictor import open_writer
from raymedlt.images.phantom_cohort import cohort
from raymedlt.storage import Storage

SIZE = 64


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder."""
    run = tmp_path_factory.mktemp("run")
    texts = cohort(100, seed=0, test_images=1, test_positives=0).table["text_findings"].to_pylist()
    config = ModelConfig(small_width=48, small_layers=1, small_heads=2)
    made = build(config, image_size=SIZE, prompt="Describe this chest X-ray.", texts=texts, seed=0)
    about = {
        "format": FORMAT, "images": {"size": SIZE, "fit": "pad", "max_pixels": 100_000},
        "generation": {"batch": 4, "max_tokens": 12, "precision": "float32"},
        "text": {"prompt": "Describe this chest X-ray.", "format": "findings"},
    }  # fmt: skip
    save_model(made.model, made.processing, about, Storage.of(str(run / "model")))
    return run


def test_paths_bytes_pillow_and_arrays_give_the_same_report(folder: Path, tmp_path: Path) -> None:
    image = images(1)[0]
    picture, data = Image.fromarray(image), io.BytesIO()
    picture.save(data, "png")
    (tmp_path / "image.png").write_bytes(data.getvalue())
    model = finetuning.load(str(folder))
    given = [image, image / 255.0, picture, data.getvalue(), str(tmp_path / "image.png"), tmp_path / "image.png"]
    found = model.generate(given, temperature=1.5)  # the likeliest word of a newborn model is none
    assert len(set(found)) == 1
    assert found[0]
    assert finetuning.load(str(folder / "model")).generate([image], temperature=1.5) == found[:1]
    assert len(model.generate(images(6))) == 6  # an array of images


def test_larger_images_are_made_smaller(folder: Path) -> None:
    large = np.kron(images(2), np.ones((1, 4, 4), np.uint8))
    assert (finetuning.load(str(folder)).prepare(large) == images(2)).all()


def test_length_and_draws(folder: Path) -> None:
    model = finetuning.load(str(folder))
    given = images(6)
    longest = [max(map(len, map(str.split, model.generate(given, max_tokens=n, temperature=1.5)))) for n in (3, None)]
    assert longest[0] <= 3 < longest[1]
    drawn = model.generate(given, temperature=1.5, seed=1)
    assert len(set(drawn)) == 6
    assert drawn == model.generate(given[::-1], temperature=1.5, seed=1)[::-1]
    assert drawn != model.generate(given, temperature=1.5, seed=2)
    with pytest.raises(InputError, match=r"temperature -1, max_tokens None"):
        model.generate(given, temperature=-1)


def test_an_image_that_cannot_be_read(folder: Path) -> None:
    model = finetuning.load(str(folder))
    given = [images(1)[0], b"", None, "missing.png", np.zeros((2, 2, 3))]
    texts, reasons = model.generate_each(given)
    assert texts[0] == model.generate(given[:1])[0]
    assert texts[1:] == [None] * 4
    assert reasons == ["", "empty file", "no image", "file not found", "an array of shape (2, 2, 3)"]
    assert model.generate_each([None]) == ([None], ["no image"])
    with pytest.raises(InputError, match=r"4 of 5 images can't be read \(1: empty file; 2: no image"):
        model.generate(given)
    with pytest.raises(InputError, match="no images"):
        model.generate([])
    with pytest.raises(InputError, match=r"one image \(str\)\. Expected: a list of images"):
        model.generate("image.png")


def test_the_model_alone_for_shards(folder: Path) -> None:
    assert open_writer(Storage.of(str(folder / "model")), "cpu").device == "cpu"


def test_no_finished_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no raymedlt\.json in .*a finished run of jobs/finetune\.py"):
        finetuning.load(str(tmp_path))
    (tmp_path / "raymedlt.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match=r"raymedlt\.json of format 99"):
        finetuning.load(str(tmp_path))
