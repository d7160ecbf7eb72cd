from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from tiny_vlms import PROMPT, QWEN_TEMPLATE, TEXTS, TINY, composed, images, target_logits
from torch.nn.functional import cross_entropy

from raymedlt.errors import InputError
from raymedlt.finetuning.config import IGNORED
from raymedlt.finetuning.hubprocessing import HubProcessing
from raymedlt.finetuning.processing import ComposedProcessing

IMAGES = images()
MODELS = ["composed", *TINY]
ENDS = {"composed": "<eos>", "qwen": "<|im_end|>", "llava": "<eos>", "idefics": "<end_of_utterance>"}
SLOTS = {"composed": 20, "qwen": 4, "llava": 4, "idefics": 20}


@pytest.fixture(scope="module", params=MODELS)
def named(request):
    """Name, model, processing."""
    if request.param == "composed":
        model, processing, _ = composed()
    else:
        model, processor = TINY[request.param]()
        processing = HubProcessing(processor, image_size=64, prompt=PROMPT)
    return request.param, model, processing


def test_labels_token_by_token(named) -> None:
    name, _, processing = named
    batch = processing.batch(IMAGES, TEXTS)
    tokenizer = processing.tokenizer
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>" if name == "qwen" else "<image>")
    for row, text in enumerate(TEXTS):
        ids, mask, labels = (batch[key][row].tolist() for key in ("input_ids", "attention_mask", "labels"))
        length = processing.prompt_length
        last = sum(mask) - 1
        assert mask == [1] * (last + 1) + [0] * (len(mask) - last - 1)
        assert ids[:length] == processing.prompt_ids
        assert labels[:length] == [IGNORED] * length  # prompt and image slots
        assert labels[length : last + 1] == ids[length : last + 1]  # every word of the target and its end
        assert labels[last + 1 :] == [IGNORED] * (len(labels) - last - 1)  # padding
        assert tokenizer.convert_ids_to_tokens(labels[last]) == ENDS[name]
        assert ids.count(image) == ids[:length].count(image) == SLOTS[name]
        assert image not in labels
        assert tokenizer.decode(labels[length:last]).strip() == text
        assert processing.token_length(text) == last + 1 - length


def test_generation_gets_the_same_prompt_as_training(named) -> None:
    _, model, processing = named
    batch, training = processing.batch(IMAGES), processing.batch(IMAGES, TEXTS)
    assert "labels" not in batch
    assert batch["attention_mask"].all()
    assert torch.equal(batch["input_ids"], training["input_ids"][:, : processing.prompt_length])
    told = model.eval().generate(
        **batch,
        max_new_tokens=3,
        do_sample=False,
        eos_token_id=list(processing.end_ids),
        pad_token_id=processing.pad_id,
    )
    texts = processing.decode(told[:, processing.prompt_length :])
    assert len(texts) == len(IMAGES)


def test_the_loss_counts_targets_alone_and_reaches_every_part(named) -> None:
    _, model, processing = named
    batch = processing.batch(IMAGES, TEXTS)
    logits, targets, _ = target_logits(model.train(), batch)
    assert len(targets) == sum(processing.token_length(text) for text in TEXTS)
    loss = cross_entropy(logits, targets)
    wanted = model(**{name: each for name, each in batch.items() if name != "labels"}).logits
    torch.testing.assert_close(loss, cross_entropy(wanted[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()))
    loss.backward()
    dead = [name for name, each in model.named_parameters() if each.grad is None]
    assert all("post_layernorm" in name for name in dead)  # LLaVA's encoder ends before its last norm


def test_the_image_matters(named) -> None:
    _, model, processing = named
    one, other = (processing.batch(each) for each in (IMAGES[:1], 255 - IMAGES[:1]))
    assert torch.equal(one["input_ids"], other["input_ids"])
    model.eval()
    assert not torch.equal(model(**one).logits, model(**other).logits)


def test_a_report_can_neither_end_itself_nor_claim_an_image(named) -> None:
    name, _, processing = named
    text = f"No <image> here {ENDS[name]} and <|im_start|> no more."
    batch = processing.batch(IMAGES[:1], [text])
    labels = batch["labels"][0][batch["labels"][0] != IGNORED].tolist()
    special = set(processing.tokenizer.all_special_ids)
    assert [token for token in labels if token in special] == labels[-1:]


def test_decode_stops_at_the_end_token(named) -> None:
    _, _, processing = named
    batch = processing.batch(IMAGES, TEXTS)
    assert processing.decode(batch["input_ids"][:, processing.prompt_length :]) == TEXTS


def test_it_travels_to_other_processes(named) -> None:
    _, _, processing = named
    again = pickle.loads(pickle.dumps(processing))
    wanted = processing.batch(IMAGES, TEXTS)
    got = again.batch(IMAGES, TEXTS)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(got[name], each) for name, each in wanted.items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (IMAGES.astype(np.float32), r"images as float32 of shape \(3, 64, 64\).*prepare them with images\.size 64"),
        (IMAGES[:, :32, :32], r"images as uint8 of shape \(3, 32, 32\).*\[B, 64, 64\]"),
        (IMAGES[:2], "2 images and 3 texts"),
    ],
)
def test_other_images_are_refused(named, given, message) -> None:
    with pytest.raises(InputError, match=message):
        named[2].batch(given, TEXTS)


def test_a_chat_template_of_a_given_language_model_is_used() -> None:
    _, processing, _ = composed()
    tokenizer = processing.tokenizer
    tokenizer.chat_template = (
        "{% for message in messages %}<bos>{{ message['role'] }}: {{ message['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    own = ComposedProcessing(tokenizer, image_tokens=2, image_size=64, prompt=PROMPT)
    assert tokenizer.decode(own.prompt_ids).replace(" ", "") == (
        "<bos>user:<image><image>DescribethischestX-ray.<eos>assistant:"
    )


def test_no_chat_template_is_refused() -> None:
    _, processor = TINY["qwen"]()
    processor.chat_template = None
    with pytest.raises(InputError, match="a Qwen2_5_VLProcessor without a chat template"):
        HubProcessing(processor, image_size=64, prompt=PROMPT)


def test_a_template_that_changes_the_prompt_for_an_answer_is_refused() -> None:
    _, processor = TINY["qwen"]()
    processor.chat_template = QWEN_TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    with pytest.raises(InputError, match="whose prompt is not the beginning of prompt and answer"):
        HubProcessing(processor, image_size=64, prompt=PROMPT)


def test_a_tokenizer_that_joins_prompt_and_answer_is_refused() -> None:
    _, processor = TINY["qwen"]()
    # "assist" + a report that begins with "ant" would become one word.
    processor.chat_template = QWEN_TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>assist").replace(
        "{{ message['role'] }}\n", "{{ 'assist' if message['role'] == 'assistant' else 'user' }}"
    )
    own = HubProcessing(processor, image_size=64, prompt=PROMPT)
    with pytest.raises(InputError, match="whose tokens do not begin with those of the prompt"):
        own.batch(IMAGES[:1], ["ant."])
