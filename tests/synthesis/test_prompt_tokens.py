"""Learnt tokens behind the text encoder, and learnt words in front of it."""

from __future__ import annotations

import pytest
import torch
from generator_world import CLASSES, draw_rows, tiny

from raymedlt.errors import InputError
from raymedlt.synthesis.adapters import add_inversion, add_lora, add_tokens
from raymedlt.synthesis.sampler import _branches
from raymedlt.synthesis.settings import SamplerSettings
from raymedlt.synthesis.tokens import PromptTokens, guided

SETTINGS = SamplerSettings(batch=2, steps=2, guidance=2.0)
ROWS = [("chest x-ray with pacemaker", ("Pacemaker",), 1), ("frontal chest x-ray", (), 2)]


def tokens() -> PromptTokens:
    shared, own = torch.arange(6.0).reshape(2, 3), 10 * torch.arange(1.0, 10).reshape(3, 1, 3)
    return PromptTokens(shared, own, CLASSES)


def test_tokens_follow_the_text():
    texts = torch.randn(4, 5, 3)
    module = tokens()
    sets = [CLASSES[:1], CLASSES[1:], CLASSES, ("unheard of",)]
    found = module(texts, module.mixture(sets)).detach()
    assert found.shape == (4, 5 + module.count, 3)
    assert torch.equal(found[:, :5], texts)
    assert torch.equal(found[2, 5:7], module.shared_MD)
    effusion, pacemaker, none = module.own_KMD.detach()
    expected = [effusion, pacemaker, (effusion + pacemaker) / 2, none]
    for row, own in zip(found, expected, strict=True):
        assert torch.allclose(row[7:], own)


def test_a_set_is_a_set():
    module = tokens()
    assert torch.equal(module.mixture([("Pacemaker", "Pacemaker")]), module.mixture([("Pacemaker",)]))
    assert torch.equal(module.mixture([CLASSES]), module.mixture([CLASSES[::-1]]))


def test_the_same_tokens_stand_in_both_branches():
    generator = tiny()
    add_tokens(generator, shared=2, per_class=1, class_names=CLASSES, seed=0)
    texts, empty = torch.randn(2, 14, 32), torch.randn(1, 14, 32)
    cond, uncond = _branches(generator, texts, empty, [CLASSES[:1], ()])
    assert torch.equal(cond[:, 14:], uncond[:, 14:])
    assert torch.equal(uncond[0, :14], empty[0])
    assert not torch.equal(cond[0, 16:], cond[1, 16:])


def test_guidance():
    uncond, cond = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])
    assert guided(uncond, cond, 3.0).tolist() == [4.0, -4.0]
    assert torch.equal(guided(uncond, cond, 1.0), cond)


def test_shapes_that_do_not_fit():
    with pytest.raises(InputError, match=r"shapes \[2, 3\] and \[2, 1, 3\], 2 names"):
        PromptTokens(torch.zeros(2, 3), torch.zeros(2, 1, 3), CLASSES)


def test_no_tokens_is_the_plain_generator():
    plain, with_none = tiny(), tiny()
    with_none.tokens = PromptTokens(torch.zeros(0, 32), torch.zeros(1, 0, 32), ())
    one, two = draw_rows(plain, ROWS, SETTINGS), draw_rows(with_none, ROWS, SETTINGS)
    assert (one.images_BSS == two.images_BSS).all()


def test_what_is_added_is_keyed_and_hardly_changes_the_start():
    one, two, other = (add_tokens(tiny(), shared=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.shared_MD, two.shared_MD)
    assert not torch.equal(one.shared_MD, other.shared_MD)
    plain, lora = tiny(), tiny()
    add_lora(lora, rank=2, alpha=2, seed=0)
    assert (draw_rows(plain, ROWS, SETTINGS).images_BSS == draw_rows(lora, ROWS, SETTINGS).images_BSS).all()


def test_learnt_words():
    plain, generator = tiny(), tiny()
    words = add_inversion(generator, shared=2, per_class=1, class_names=CLASSES, seed=0)
    assert generator.worded("chest", ("Pacemaker",)) == "<learnt-0> <learnt-1> <learnt-3> chest"
    ids = generator.token_ids([generator.worded("chest", ("Pacemaker",))])[0]
    assert (ids[1:4] - words.first_id).tolist() == [0, 1, 3]
    assert ids[4] == plain.token_ids(["chest"])[0, 1]
    found = generator.text_encoder.get_input_embeddings()(ids)
    assert torch.equal(found[1:4], words.learnt_ND[[0, 1, 3]])
    # texts without the words are what they were
    empty = [each.text_encoder(each.token_ids(["chest", ""])).last_hidden_state for each in (plain, generator)]
    assert torch.equal(*empty)


def test_one_thing_at_a_time():
    generator = tiny()
    add_tokens(generator, shared=1, seed=0)
    with pytest.raises(InputError, match="already has something learnt on top"):
        add_lora(generator, rank=2, alpha=2, seed=0)
