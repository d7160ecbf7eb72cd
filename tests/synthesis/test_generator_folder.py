"""Generators on disk: round trip, what is refused, words as tokens, and that diffusers reads the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from generator_world import CLASSES, WORDS, draw_rows, tiny

from raymedlt.errors import ConfigError, InputError
from raymedlt.synthesis.adapters import FILE, add_lora, add_tokens, load_adapters, save_adapters
from raymedlt.synthesis.folder import INDEX, _file_hash, generator_hash, load_generator, save_generator
from raymedlt.synthesis.settings import SamplerSettings, SmallSizes
from raymedlt.synthesis.small import word_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator") / "small"
    save_generator(tiny(), str(folder))
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_saved_generator_comes_back(saved, tmp_path):
    before, after = tiny(), load_generator(str(saved))
    for part in ("text_encoder", "unet", "vae"):
        weights = getattr(after, part).state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in getattr(before, part).state_dict().items())
        assert not any(parameter.requires_grad for parameter in getattr(after, part).parameters())
    assert (after.size, after.scheduler_config) == (32, before.scheduler_config)
    assert after.token_ids(["large pacemaker"]).tolist() == before.token_ids(["large pacemaker"]).tolist()
    assert save_generator(after, str(tmp_path / "again")) == generator_hash(str(saved)) == after.base_hash


def test_nothing_in_the_folder_tells_where_it_lay(saved, tmp_path):
    save_generator(load_generator(str(saved)), str(tmp_path / "again"))
    for file in (tmp_path / "again").rglob("*.json"):
        assert str(saved.parent) not in file.read_text(), file


def test_the_hash_is_of_the_generators_own_files(copy):
    before = generator_hash(str(copy))
    (copy / "README.md").write_text("about it")
    (copy / "adapters").mkdir()
    (copy / "adapters" / FILE).write_bytes(b"learnt")
    assert generator_hash(str(copy)) == before
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + " ")
    assert generator_hash(str(copy)) != before


def test_files_are_read_once_until_they_change(copy):
    def read() -> int:
        before = _file_hash.cache_info().misses
        generator_hash(str(copy))
        return _file_hash.cache_info().misses - before

    assert read() > 5
    assert read() == 0
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[::-1])
    assert read() == 1


def test_every_word_is_one_token():
    tokenizer = word_tokenizer([*WORDS, "banana", "abab", "ant", "naan"], 16)
    for word in ("Effusion", "banana", "abab", "ant", "naan", "pacemaker"):
        assert len(tokenizer.tokenize(word)) == 1, word
    assert tokenizer.tokenize("left-sided 12")  # spelt, not lost
    assert tokenizer.unk_token_id not in tokenizer("zebra", add_special_tokens=False).input_ids
    with pytest.raises(InputError, match="no words"):
        word_tokenizer([], 16)


def test_one_more_block_of_the_autoencoder_halves_the_latents():
    assert tiny(vae_channels=(16, 16, 16, 16)).latent_shape[1:] == (4, 4)
    assert tiny().latent_shape[1:] == (8, 8)


def test_building_is_deterministic_and_leaves_the_global_randomness_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one = tiny()
    assert torch.equal(torch.rand(3), expected)
    two = tiny()
    assert all(torch.equal(a, b) for a, b in zip(one.unet.parameters(), two.unet.parameters(), strict=True))
    with pytest.raises(ConfigError, match=r"generator\.small\.size is 48"):
        SmallSizes(size=48)


def _pickled(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def _other_kind(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["unet"] = ["diffusers", "FluxTransformer2DModel"]
    (folder / INDEX).write_text(json.dumps(index))


def _other_prediction(folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / INDEX).unlink(), f"no {INDEX} in"),
        (_pickled, r"no unet/\*.safetensors in .* only pickled weights \(diffusion_pytorch_model.bin\).*convert"),
        (lambda folder: shutil.rmtree(folder / "scheduler"), "no scheduler/scheduler_config.json in"),
        (lambda folder: (folder / "vae" / "config.json").unlink(), "no vae/config.json in"),
        (_other_kind, "the unet of .* is a FluxTransformer2DModel.*UNet2DConditionModel"),
        (_other_prediction, "a generator that predicts 'sample'"),
    ],
)
def test_folders_that_are_refused(copy, spoil, message):
    spoil(copy)
    with pytest.raises(InputError, match=message):
        load_generator(str(copy))


def test_a_name_that_is_no_folder_is_not_downloaded():
    with pytest.raises(InputError, match=r"neither a folder nor in the local cache.*HF_HUB_OFFLINE=0"):
        load_generator("nobody/no-such-generator")


def test_adapters_stay_apart_and_belong_to_one_generator(saved, tmp_path):
    generator = load_generator(str(saved))
    add_tokens(generator, shared=2, seed=0)
    with pytest.raises(InputError, match=r"learnt tokens.*save_adapters"):
        save_generator(generator, str(tmp_path / "never"))
    card = save_adapters(generator, str(tmp_path / "adapters"))
    assert (card.method, card.shared, card.width, card.base_hash) == ("tokens", 2, 32, generator_hash(str(saved)))
    assert generator_hash(str(saved), str(tmp_path / "adapters")) != generator_hash(str(saved))
    other = tiny(prediction="epsilon")
    save_generator(other, str(tmp_path / "other"))
    with pytest.raises(InputError, match="that were learnt on generator"):
        load_generator(str(tmp_path / "other"), adapters=str(tmp_path / "adapters"))
    with pytest.raises(InputError, match=f"no {FILE} in"):
        load_generator(str(saved), adapters=str(tmp_path / "nothing"))
    whole = (tmp_path / "adapters" / FILE).read_bytes()
    (tmp_path / "adapters" / FILE).write_bytes(whole[:-4])
    with pytest.raises(InputError, match="holds no readable card"):
        load_generator(str(saved), adapters=str(tmp_path / "adapters"))
    (tmp_path / "adapters" / FILE).write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
    with pytest.raises(InputError, match="holds no readable card"):
        load_generator(str(saved), adapters=str(tmp_path / "adapters"))


def test_a_merged_lora_draws_what_the_lora_draws(saved, tmp_path):
    generator = load_generator(str(saved))
    add_lora(generator, rank=2, alpha=4, seed=0)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(sorted(generator.unet.named_parameters())):
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(number))
    save_adapters(generator, str(tmp_path / "lora"))
    merged = load_generator(str(saved), adapters=str(tmp_path / "lora"))
    apart = load_generator(str(saved))
    load_adapters(apart, str(tmp_path / "lora"), merge=False)
    assert not any("lora" in name for name, _ in merged.unet.named_modules())
    plain = load_generator(str(saved))
    channels = generator.unet.config["in_channels"]
    noise = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    texts = torch.randn(2, 14, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        said = [each.unet(noise, 500, texts).sample for each in (generator, merged, apart, plain)]
    torch.testing.assert_close(said[1], said[0], atol=1e-5, rtol=1e-4)
    assert torch.equal(said[2], said[0])
    assert (said[3] - said[0]).abs().max() > 1e-3


def test_diffusers_own_pipeline_reads_the_folder_and_draws_the_same(saved):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(saved), use_safetensors=True, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "chest x-ray with pacemaker", num_inference_steps=4, guidance_scale=2.0, output_type="np",
        generator=torch.Generator().manual_seed(11),
    ).images[0, :, :, 0]  # fmt: skip
    settings = SamplerSettings(batch=1, steps=4, guidance=2.0)
    ours = draw_rows(load_generator(str(saved)), [("chest x-ray with pacemaker", CLASSES[1:], 11)], settings)
    assert np.abs(theirs * 255 - ours.images_BSS[0]).max() <= 1.01  # theirs isn't rounded yet
