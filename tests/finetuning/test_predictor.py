from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import writer_world
from PIL import Image
from writer_world import SIZE, images

from raymedlt import finetuning
from raymedlt.errors import InputError
from raymedlt.finetuning import predictor

ABOUT = {
    "format": 1,
    "images": {"size": SIZE, "fit": "pad", "max_pixels": 10_000},
    "generation": {"batch": 4, "max_tokens": 12, "precision": "float32"},
    "text": {"prompt": "?", "format": "findings"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder whose model is the tiny one."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "raymedlt.json").write_text(json.dumps(ABOUT))
    found: list[Any] = []

    def load_writer(path: Path, about: dict[str, Any], device: str) -> Any:
        found.append((path, about, device))
        assert path == tmp_path / "model"
        assert about == ABOUT
        return writer_world.writer()

    monkeypatch.setattr(predictor, "load_writer", load_writer)
    return tmp_path


def test_paths_bytes_pillow_and_arrays_give_the_same_report(folder: Path) -> None:
    image = images(1)[0]
    picture, data = Image.fromarray(image), io.BytesIO()
    picture.save(data, "png")
    (folder / "image.png").write_bytes(data.getvalue())
    model = finetuning.load(str(folder))
    given = [image, image / 255.0, picture, data.getvalue(), str(folder / "image.png"), folder / "image.png"]
    found = model.generate(given)
    assert len(set(found)) == 1
    assert found[0]
    assert finetuning.load(str(folder / "model")).generate([image]) == found[:1]
    assert len(set(model.generate(images(6)))) > 1  # an array of images


def test_larger_images_are_made_smaller(folder: Path) -> None:
    large = np.kron(images(2), np.ones((1, 4, 4), np.uint8))
    model = finetuning.load(str(folder))
    assert (model.prepare(large) == images(2)).all()
    assert model.size == SIZE


def test_length_and_draws(folder: Path) -> None:
    model = finetuning.load(str(folder))
    given = images(6)
    assert max(len(text.split()) for text in model.generate(given, max_tokens=3)) <= 3
    drawn = model.generate(given, temperature=1.5, seed=1)
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


def test_no_finished_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no raymedlt\.json in .*a finished run of jobs/finetune\.py"):
        finetuning.load(str(tmp_path))
    (tmp_path / "raymedlt.json").write_text('{"format": 9}')
    with pytest.raises(InputError, match=r"raymedlt\.json of format 9\. Expected: format 1"):
        finetuning.load(str(tmp_path))
