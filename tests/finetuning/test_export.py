from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_vlms import PROMPT, TEXTS, TINY, composed, images, saved, target_logits
from transformers import AutoModelForImageTextToText, AutoProcessor

from raymedlt.errors import ConfigError
from raymedlt.finetuning.build import build
from raymedlt.finetuning.config import ModelConfig
from raymedlt.finetuning.export import FORMAT, load_export, save_model
from raymedlt.storage import Storage

IMAGES = images()
ABOUT = {"format": FORMAT, "images": {"size": 64}, "text": {"prompt": PROMPT}}


@pytest.fixture(scope="module", params=["composed", *TINY])
def exported(request, tmp_path_factory):
    """Model before the export, its batch and logits, and the export's folder."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "composed":
        built = composed(method="lora")
    else:
        config = ModelConfig(path=str(saved(request.param, folder / "base")))
        built = build(config, image_size=64, prompt=PROMPT, texts=[], seed=0)
    with torch.no_grad():
        for name, each in built.model.named_parameters():
            if "lora_B" in name:
                each.normal_(generator=torch.Generator().manual_seed(0))
    batch = built.processing.batch(IMAGES, TEXTS)
    logits = target_logits(built.model.eval(), batch).logits_NV
    save_model(built.model, built.processing, ABOUT, Storage.of(str(folder / "out")))
    return request.param, batch, logits, folder / "out"


def test_read_again_it_says_the_same(exported) -> None:
    _, batch, logits, folder = exported
    model, processing = load_export(folder, ABOUT)
    model.eval()
    assert json.loads((folder / "raymedlt.json").read_bytes()) == ABOUT
    again = processing.batch(IMAGES, TEXTS)
    assert all(torch.equal(again[name], each) for name, each in batch.items())
    torch.testing.assert_close(target_logits(model, again).logits_NV, logits, rtol=1e-3, atol=1e-4)


def test_plain_transformers_reads_it(exported) -> None:
    name, batch, logits, folder = exported
    model = AutoModelForImageTextToText.from_pretrained(str(folder)).eval()
    torch.testing.assert_close(target_logits(model, batch).logits_NV, logits, rtol=1e-3, atol=1e-4)
    assert model.generation_config.do_sample is False
    assert model.generation_config.eos_token_id
    if name != "composed":
        processor = AutoProcessor.from_pretrained(str(folder))
        assert processor.chat_template


def test_nothing_is_pickled_and_no_path_of_this_machine_is_told(exported) -> None:
    _, _, _, folder = exported
    files = sorted(path.name for path in folder.iterdir())
    assert {"config.json", "generation_config.json", "model.safetensors", "raymedlt.json"} <= set(files)
    assert {Path(name).suffix for name in files} <= {".json", ".safetensors", ".jinja"}
    assert not any(str(folder.parent) in path.read_text() for path in folder.iterdir() if path.suffix == ".json")


def test_an_exported_model_can_be_trained_on(tmp_path: Path) -> None:
    built = composed()
    save_model(built.model, built.processing, ABOUT, Storage.of(str(tmp_path)))
    config = ModelConfig(path=str(tmp_path))
    again = build(config, image_size=64, prompt="Another prompt.", texts=[], seed=0)
    assert again.kind == "composed"
    assert any("lora_" in name for name, each in again.model.named_parameters() if each.requires_grad)
    assert again.processing.batch(IMAGES, TEXTS)["labels"].shape[0] == 3
    with pytest.raises(ConfigError, match=r"images of 32 pixels for the model.*set images\.size to 64"):
        build(config, image_size=32, prompt=PROMPT, texts=[], seed=0)
