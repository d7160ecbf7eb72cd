from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_vlms import PROMPT, TEXTS, TINY, composed, images, saved, target_logits

from raymedlt.errors import ConfigError, InputError
from raymedlt.finetuning.build import build, shapes
from raymedlt.finetuning.config import ModelConfig
from raymedlt.finetuning.language import small_language
from raymedlt.finetuning.model import parameter_counts

IMAGES = images()
SMALL = {"small_width": 32, "small_layers": 2, "small_heads": 2}
COMPOSED = [
    {},
    {"connector": "queries", "queries": 3},
    {"method": "lora", "freeze_vision": True},
    {"vision": "efficientnet-lite0"},
    {"vision": "test_vit"},
]

# Qwen/Qwen2.5-VL-3B-Instruct's config.json, less what has to do with neither shapes nor types.
QWEN_3B = {
    "model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 128000, "tie_word_embeddings": True,
    "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "rope_theta": 1000000.0,
    "vision_config": {
        "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "in_chans": 3, "out_hidden_size": 2048, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
        "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2, "temporal_patch_size": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("keys", COMPOSED, ids=lambda keys: "-".join(map(str, keys.values())) or "default")
def test_composed_models_learn_and_their_shapes_are_known_before(keys: dict) -> None:
    config = ModelConfig(**SMALL, **keys)
    model, processing, kind = composed(**keys)
    assert kind == "composed"
    known = shapes(config, image_size=64, texts=[PROMPT, *TEXTS])
    assert (known.parameters, known.learning) == parameter_counts(model)
    logits, targets, _ = target_logits(model, processing.batch(IMAGES, TEXTS))
    torch.nn.functional.cross_entropy(logits, targets).backward()
    learning = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {name for name, each in model.named_parameters() if each.grad is not None} == learning
    assert any(name.startswith("connector") for name in learning)
    assert any(name.startswith("vision") for name in learning) != config.freeze_vision


def test_the_same_seed_the_same_model_whatever_was_drawn_before() -> None:
    one = composed(seed=1).model.state_dict()
    torch.rand(5)
    state = torch.get_rng_state()
    other, third = composed(seed=1).model.state_dict(), composed(seed=2).model.state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(each, other[name]) for name, each in one.items())
    for part in ("vision.network.conv1.0.weight", "connector.out.weight", "language_model.model.embed_tokens.weight"):
        assert not torch.equal(one[part], third[part])


def test_a_changed_connector_leaves_the_other_parts_starts_as_they_were() -> None:
    one, other = composed().model.state_dict(), composed(connector="queries").model.state_dict()
    same = [name for name in one if not name.startswith("connector")]
    assert all(torch.equal(one[name], other[name]) for name in same)


@pytest.mark.parametrize("name", list(TINY))
def test_given_models(name: str, tmp_path: Path) -> None:
    config = ModelConfig(path=str(saved(name, tmp_path)), freeze_vision=True)
    model, processing, kind = build(config, image_size=64, prompt=PROMPT, texts=[], seed=0)
    assert kind == "hub"
    assert model.training
    known = shapes(config, image_size=64)
    assert (known.parameters, known.learning) == parameter_counts(model)
    learning = [name for name, each in model.named_parameters() if each.requires_grad]
    assert not any("vision" in name or "visual.blocks" in name for name in learning)
    assert any("lora_" in name for name in learning)
    logits, targets, _ = target_logits(model, processing.batch(IMAGES, TEXTS))
    torch.nn.functional.cross_entropy(logits, targets).backward()
    assert [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None] == []


def test_shapes_of_a_real_model_without_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_3B))
    known = shapes(ModelConfig(path=str(tmp_path), freeze_vision=True), image_size=448)
    layers, width, rank = 36, 2048, 8
    lora = layers * rank * (2 * (width + width) + 2 * (width + 256))  # q, o; k, v with 2 heads of 128
    assert known.parameters == 3_754_622_976 + lora
    learning = known.learning - lora
    assert shapes(ModelConfig(path=str(tmp_path), method="full"), image_size=448).parameters == 3_754_622_976
    assert 0 <= learning < 100e6  # what joins vision to language


def test_memory_of_every_stage() -> None:
    known = shapes(ModelConfig(**SMALL, method="lora"), image_size=64, texts=TEXTS)
    every, own = known.parameters, known.learning
    assert own < every
    assert known.bytes_per_replica(0, 4) == (4 * every + 12 * own, 0)
    assert known.bytes_per_replica(1, 4) == (4 * every + 4 * own + 2 * own, 0)
    assert known.bytes_per_replica(2, 4) == (4 * every + own + 2 * own, 0)
    assert known.bytes_per_replica(3, 4) == (every + 3 * own, 0)
    assert known.bytes_per_replica(3, 4, offload=True) == (0, every + 3 * own)


def test_a_language_model_alone_is_no_vision_language_model(tmp_path: Path) -> None:
    model, tokenizer = small_language(TEXTS, 32, 1, 2)
    model.save_pretrained(str(tmp_path))
    tokenizer.save_pretrained(str(tmp_path))
    with pytest.raises(InputError, match=r"is a model of type 'llama'.*belongs into model\.language"):
        build(ModelConfig(path=str(tmp_path)), image_size=64, prompt=PROMPT, texts=[], seed=0)
    config = ModelConfig(language=str(tmp_path))
    known = shapes(config, image_size=64)
    model, _, _ = build(config, image_size=64, prompt=PROMPT, texts=[], seed=0)
    assert known.learning == parameter_counts(model)[1]
    assert abs(known.parameters - parameter_counts(model)[0]) <= 32  # this tokenizer has an image token already


def test_a_hub_name_without_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.path is 'Qwen/Qwen9-VL', neither a folder nor in the hub's local"):
        build(ModelConfig(path="Qwen/Qwen9-VL"), image_size=64, prompt=PROMPT, texts=[], seed=0)


def test_code_of_a_models_folder_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}))
    with pytest.raises(InputError, match="brings program code of its own"):
        shapes(ModelConfig(path=str(tmp_path)), image_size=64)


def test_weights_that_lack_tensors_are_refused(tmp_path: Path) -> None:
    import safetensors.torch

    file = saved("llava", tmp_path) / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    lost = next(name for name in sorted(tensors) if name.endswith("q_proj.weight"))
    del tensors[lost]
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match="that lack 1 tensors, such as"):
        build(ModelConfig(path=str(tmp_path)), image_size=64, prompt=PROMPT, texts=[], seed=0)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.query_heads is 5 and the language model 32 wide"):
        composed(connector="queries", query_heads=5)
