from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_vlms import TEXTS, composed, images, target_logits
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText

from raymedlt.errors import InputError
from raymedlt.finetuning.config import IGNORED
from raymedlt.finetuning.model import ComposedModel

IMAGES = images()


@pytest.fixture(scope="module")
def built():
    return composed()


@pytest.fixture(scope="module")
def batch(built):
    return built.processing.batch(IMAGES, TEXTS)


def inputs_of(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


def test_image_tokens_stand_in_the_slots(built, batch) -> None:
    model = built.model.eval()
    heard = {}
    hook = model.language_model.register_forward_pre_hook(
        lambda module, arguments, named: heard.update(named), with_kwargs=True
    )
    model(**inputs_of(batch))
    hook.remove()
    embeddings, slots = heard["inputs_embeds"], batch["input_ids"] == model.config.image_token_id
    tokens = model.image_embeddings(batch["pixel_values"])
    torch.testing.assert_close(embeddings[slots], tokens.flatten(0, 1))
    words = model.get_input_embeddings()(batch["input_ids"])
    torch.testing.assert_close(embeddings[~slots], words[~slots])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("given", [True, False])
def test_no_word_sees_the_words_to_come(batch, given, attention) -> None:
    # Once transformers took the causal mask away from a language model that was given ready-made.
    built = composed()
    model = built.model if given else ComposedModel(built.model.config)
    model.set_attn_implementation(attention)
    assert model.language_model.config._attn_implementation == attention
    model.train()
    at = built.processing.prompt_length + 2
    changed = {**inputs_of(batch), "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, at:] = changed["input_ids"][:, at:].roll(1, 0)
    for mask in (batch["attention_mask"], torch.ones_like(batch["attention_mask"])):
        one = model(**{**inputs_of(batch), "attention_mask": mask}).logits
        other = model(**{**changed, "attention_mask": mask}).logits
        torch.testing.assert_close(one[:, :at], other[:, :at])
        assert not torch.allclose(one[0, at], other[0, at])


def test_padding_on_either_side_changes_no_prediction(built, batch) -> None:
    model, pad = built.model.eval(), built.processing.pad_id
    row = 1  # the shortest
    length = int(batch["attention_mask"][row].sum())
    alone = {name: value[row : row + 1, :length] for name, value in batch.items() if name.startswith(("in", "att"))}
    pixels = {"pixel_values": batch["pixel_values"][row : row + 1]}
    wanted = model(**alone, **pixels).logits[0]
    torch.testing.assert_close(model(**inputs_of(batch)).logits[row, :length], wanted)
    left = {"input_ids": torch.nn.functional.pad(alone["input_ids"], (5, 0), value=pad)}
    left["attention_mask"] = torch.nn.functional.pad(alone["attention_mask"], (5, 0))
    got = model(**left, **pixels, position_ids=(left["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits[0, 5:]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_target_logits_are_those_of_the_whole_sequence(built, batch) -> None:
    model = built.model.eval()
    logits, targets, rows = target_logits(model, batch)
    every = model(**inputs_of(batch)).logits[:, :-1]
    wanted = batch["labels"][:, 1:]
    torch.testing.assert_close(logits, every[wanted != IGNORED])
    assert torch.equal(targets, wanted[wanted != IGNORED])
    assert rows.bincount().tolist() == [built.processing.token_length(text) for text in TEXTS]


def test_every_weight_learns(built, batch) -> None:
    built.model.zero_grad()
    logits, targets, _ = target_logits(built.model.train(), batch)
    cross_entropy(logits, targets).backward()
    assert [name for name, each in built.model.named_parameters() if each.grad is None] == []


def test_it_learns_three_texts_by_their_images_and_writes_them() -> None:
    model, processing, _ = composed(small_width=64)
    halves = np.zeros((3, 64, 64), np.uint8)
    halves[0, :, :32] = halves[1, :, 32:] = halves[2, :32] = 200
    batch = processing.batch(halves, TEXTS)
    model.vision.settling = True
    for _ in range(30):  # as after learning to see: batch norms know what images are like
        model.train().vision(batch["pixel_values"])
    model.vision.settling = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        logits, targets, _ = target_logits(model.train(), batch)
        loss = cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05  # who cannot tell the images apart has 0.08
    told = model.eval().generate(**processing.batch(halves[::-1]), max_new_tokens=40)
    assert processing.decode(told[:, processing.prompt_length :]) == TEXTS[::-1]


def test_cached_generation_says_what_the_whole_forward_pass_says(built) -> None:
    model, processing = built.model.eval(), built.processing
    prompt = processing.batch(IMAGES)
    seen = []
    hook = model.vision.register_forward_hook(lambda *_: seen.append(1))
    told = model.generate(**prompt, max_new_tokens=6, min_new_tokens=6)
    hook.remove()
    assert len(seen) == 1  # the images are read once
    ids = prompt["input_ids"]
    for _ in range(6):
        logits = model(input_ids=ids, pixel_values=prompt["pixel_values"]).logits[:, -1]
        logits[:, list(processing.end_ids)] = -torch.inf
        ids = torch.cat([ids, logits.argmax(1, keepdim=True)], dim=1)
    assert torch.equal(told, ids)


def test_saved_and_loaded_it_is_the_same(built, batch, tmp_path) -> None:
    built.model.eval().save_pretrained(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt")] == []
    again = AutoModelForImageTextToText.from_pretrained(str(tmp_path)).eval()
    assert isinstance(again, ComposedModel)
    again.set_attn_implementation("eager")  # as the small one learns, but that isn't kept
    assert torch.equal(again(**inputs_of(batch)).logits, built.model(**inputs_of(batch)).logits)
    assert again.language_model.lm_head.weight is again.language_model.model.embed_tokens.weight
    assert again.vision.levels == built.model.vision.levels


def test_gradient_checkpointing_gives_the_same_gradients(batch) -> None:
    gradients = []
    for on in (False, True):
        model = composed().model
        if on:
            model.gradient_checkpointing_enable()
        logits, targets, _ = target_logits(model, batch)
        cross_entropy(logits, targets).backward()
        gradients.append({name: each.grad for name, each in model.named_parameters()})
    for name, wanted in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], wanted)


def test_rows_with_other_image_slots_are_refused(built, batch) -> None:
    short = {**inputs_of(batch), "input_ids": batch["input_ids"].clone()}
    short["input_ids"][0, 1] = built.processing.pad_id
    with pytest.raises(InputError, match=r"3 images and rows with 19 to 20 image slots.*one image per row, and 20"):
        built.model(**short)
    with pytest.raises(InputError, match=r"2 images and rows with 20 to 20"):
        built.model(**{**inputs_of(batch), "pixel_values": batch["pixel_values"][:2]})
