"""Hugging Face vision-language models of a few thousand weights, and a composed one: built from configurations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from raymedlt.finetuning.build import Built, build
from raymedlt.finetuning.config import IGNORED, ModelConfig
from raymedlt.finetuning.language import word_tokenizer

TEXTS = [
    "The heart size is normal. No pleural effusion. The lungs are clear.",
    "Mild right consolidation.",
    "Large left pleural effusion with compressive atelectasis. A left pacemaker is in place. No pneumothorax.",
]
PROMPT = "Describe this chest X-ray."

# The real models' templates, less what has to do with tools and several turns of systems.
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', "
    "'text') %}{{ content['text'] + ' ' }}{% endfor %}{% else %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'text') %}{% generation %}{{ content['text'] + ' ' }}{% endgeneration %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

_TEXT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip


def _tokenizer(special: list[str], **named: str) -> Any:
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer([*TEXTS, PROMPT, "system user assistant You are a helpful"]).backend_tokenizer,
        **named,
    )
    tokenizer.add_special_tokens({"extra_special_tokens": special})
    return tokenizer


def _ids(tokenizer: Any) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def qwen(seed: int = 0) -> tuple[Any, Any]:
    """Qwen2.5-VL: model and processor."""
    names = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _tokenizer(names, eos_token="<|im_end|>", pad_token="<pad>", bos_token="<bos>", unk_token="<unk>")
    start, end, image, video = (tokenizer.convert_tokens_to_ids(name) for name in names[2:])
    text = {
        **_TEXT, **_ids(tokenizer), "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16,
        "patch_size": 14, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    pictures = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
    return model, Qwen2_5_VLProcessor(pictures, tokenizer, Qwen2VLVideoProcessor(), chat_template=QWEN_TEMPLATE)


def llava(seed: int = 0) -> tuple[Any, Any]:
    """LLaVA 1.5: model and processor."""
    tokenizer = _tokenizer(["<image>"], eos_token="<eos>", pad_token="<pad>", bos_token="<bos>", unk_token="<unk>")
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "projection_dim": 16,
    }  # fmt: skip
    config = LlavaConfig(
        text_config={"model_type": "llama", **_TEXT, **_ids(tokenizer), "vocab_size": len(tokenizer)},
        vision_config=vision, image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=4,
        vision_feature_layer=-1, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        pictures, tokenizer, patch_size=16, vision_feature_select_strategy="default", chat_template=LLAVA_TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip
    return model, processor


def idefics(seed: int = 0) -> tuple[Any, Any]:
    """Idefics3, of which SmolVLM (whose processor needs num2words) is a copy: tiles of the image and a whole one."""
    names = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
    names += [f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)]
    tokenizer = _tokenizer(
        names, eos_token="<end_of_utterance>", pad_token="<pad>", bos_token="<|im_start|>", unk_token="<unk>"
    )
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = Idefics3Config(
        text_config={"model_type": "llama", **_TEXT, **_ids(tokenizer), "vocab_size": len(tokenizer)},
        vision_config=vision, image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2,
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Idefics3ForConditionalGeneration(config)
    pictures = Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return model, Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=SMOL_TEMPLATE)


TINY = {"qwen": qwen, "llava": llava, "idefics": idefics}


def saved(name: str, folder: Path) -> Path:
    """A tiny model's folder as it would lie on the hub."""
    model, processor = TINY[name]()
    model.save_pretrained(str(folder))
    processor.save_pretrained(str(folder))
    return folder


def composed(seed: int = 0, **keys: Any) -> Built:
    """A composed model of 64-pixel images; `keys` as in the section `model`."""
    config = ModelConfig(**{"small_width": 32, "small_layers": 2, "small_heads": 2, **keys})
    return build(config, image_size=64, prompt=PROMPT, texts=TEXTS, seed=seed)


def images(count: int = 3, size: int = 64) -> NDArray[np.uint8]:
    """Noise, uint8 [count, size, size]."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)


class Targets(NamedTuple):
    """What the model says at the positions that count, and what it should have said."""

    logits_NV: Tensor
    targets_N: Tensor
    rows_N: Tensor
    """Which row of the batch each target belongs to."""


def target_logits(model: Any, batch: Mapping[str, Tensor]) -> Targets:
    """Logits of the target tokens alone: the vocabulary's scores of prompts and images are never computed.

    Args:
        model: this model or any Hugging Face vision-language model, also wrapped (peft, DDP, DeepSpeed).
        batch: of `processing`, with labels; padded on the right.
    """
    labels_BL = batch["labels"]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    columns = (labels_BL[:, 1:] != IGNORED).any(0).nonzero()[:, 0]
    logits_BKV = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    targets_BK = labels_BL[:, columns + 1]
    wanted_BK = targets_BK != IGNORED
    rows_N = wanted_BK.nonzero()[:, 0]
    return Targets(logits_BKV[wanted_BK], targets_BK[wanted_BK], rows_N)
