from __future__ import annotations

import copy

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny_vlms import PROMPT, TEXTS, TINY, composed, images, target_logits
from torch import nn

from raymedlt.errors import ConfigError, InputError
from raymedlt.finetuning.hubprocessing import HubProcessing
from raymedlt.finetuning.lora import (
    AdapterCard,
    add_lora,
    has_lora,
    language_part,
    learnt_tensors,
    load_adapter,
    merge,
    read_adapter,
    save_adapter,
)
from raymedlt.storage import Storage

IMAGES = images()
LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "seed": 3}
CARD = AdapterCard(base="tiny", rank=2, alpha=8.0, targets=("q_proj", "v_proj"))


@pytest.fixture(params=["composed", "qwen", "llava", "idefics"])
def model_and_batch(request):
    if request.param == "composed":
        model, processing, _ = composed()
    else:
        model, processor = TINY[request.param]()
        processing = HubProcessing(processor, image_size=64, prompt=PROMPT)
    return model.eval(), processing.batch(IMAGES, TEXTS)


def disturb(model: nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "lora_B" in name:
                each.normal_()


def test_changes_nothing_before_the_first_step_and_something_then(model_and_batch) -> None:
    model, batch = model_and_batch
    before = target_logits(model, batch).logits_NV
    add_lora(model, **LORA)
    torch.testing.assert_close(target_logits(model, batch).logits_NV, before)
    disturb(model)
    assert not torch.allclose(target_logits(model, batch).logits_NV, before)


def test_of_the_language_part_the_matrices_alone_learn(model_and_batch) -> None:
    model, _ = model_and_batch
    outside = {name for name, _ in model.named_parameters()}
    add_lora(model, **LORA)
    part = language_part(model)
    learning = {name for name, each in part.named_parameters() if each.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    assert not model.get_output_embeddings().weight.requires_grad
    inside = {id(each) for each in part.parameters()} | {id(model.get_output_embeddings().weight)}
    rest = {name for name, each in model.named_parameters() if id(each) not in inside}
    assert rest <= outside  # vision encoder and connector are as they were, and learn
    assert all(each.requires_grad for name, each in model.named_parameters() if name in rest)


def test_merged_it_says_the_same_without_matrices(model_and_batch) -> None:
    model, batch = model_and_batch
    names = set(model.state_dict())
    add_lora(model, **LORA)
    disturb(model)
    wanted = target_logits(model, batch).logits_NV
    merge(model)
    torch.testing.assert_close(target_logits(model, batch).logits_NV, wanted, rtol=1e-3, atol=1e-4)
    assert set(model.state_dict()) == names
    assert not any(isinstance(each, BaseTunerLayer) for each in model.modules())
    add_lora(model, **LORA)  # for the next training
    assert has_lora(model)


def test_the_same_seed_the_same_start_whatever_was_drawn_before() -> None:
    one, other, third = (composed().model for _ in range(3))
    add_lora(one, **LORA)
    torch.rand(7)
    state = torch.get_rng_state()
    add_lora(other, **LORA)
    assert torch.equal(state, torch.get_rng_state())
    add_lora(third, **{**LORA, "seed": 4})
    first = {name: each for name, each in one.named_parameters() if "lora_A" in name}
    second = dict(other.named_parameters())
    assert all(torch.equal(each, second[name]) for name, each in first.items())
    name = next(iter(first))
    assert not torch.equal(first[name], dict(third.named_parameters())[name])


def test_saved_and_loaded_on_a_plain_model(tmp_path) -> None:
    model, processing, _ = composed()
    plain = copy.deepcopy(model)
    batch = processing.batch(IMAGES, TEXTS)
    add_lora(model.eval(), rank=2, alpha=8.0, dropout=0.0, targets=CARD.targets, seed=3)
    disturb(model)
    with torch.no_grad():
        model.connector.places_KD.add_(1)
    save_adapter(learnt_tensors(model), CARD, Storage.of(str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]
    assert load_adapter(plain.eval(), str(tmp_path)) == CARD
    assert torch.equal(target_logits(plain, batch).logits_NV, target_logits(model, batch).logits_NV)
    tensors = read_adapter(str(tmp_path))[1]
    assert not any(name.startswith("language_model") and "lora_" not in name for name in tensors)


def test_an_adapter_of_another_model_is_refused(tmp_path) -> None:
    model = composed().model
    add_lora(model, rank=2, alpha=8.0, dropout=0.0, targets=CARD.targets, seed=3)
    save_adapter(learnt_tensors(model), CARD, Storage.of(str(tmp_path)))
    with pytest.raises(InputError, match=r"tensors do not fit.*learnt on, 'tiny'"):
        load_adapter(composed(small_width=64).model, str(tmp_path))


def test_no_file_and_no_card_are_told_apart(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no adapter\.safetensors in"):
        read_adapter(str(tmp_path))
    (tmp_path / "adapter.safetensors").write_bytes(b"\x00" * 32)
    with pytest.raises(InputError, match="holds no readable card"):
        read_adapter(str(tmp_path))


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora_targets is \['query'\].*down_proj, gate_proj, .*q_proj"):
        add_lora(composed().model, **LORA, targets=["query"])


def test_a_second_lora_is_refused() -> None:
    model = composed().model
    add_lora(model, **LORA)
    with pytest.raises(InputError, match="already has a LoRA"):
        add_lora(model, **LORA)
