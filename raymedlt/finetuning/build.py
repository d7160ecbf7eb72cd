"""From the section `model` to a model that can learn, with its processing; or to its shapes alone.

Shapes are built on torch's meta device: no weights, no memory, no network, so that --describe can say what a model of
billions of weights would take before anything is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, LlamaConfig
from transformers.utils import logging

from raymedlt.errors import ConfigError, InputError, MissingDependencyError
from raymedlt.evaluation.findings import every_group
from raymedlt.finetuning.config import LITE0, SMALL, SMOLLM2, ModelConfig
from raymedlt.finetuning.hubprocessing import HubProcessing
from raymedlt.finetuning.language import IMAGE_TOKEN, Language, build_language, model_folder, small_language
from raymedlt.finetuning.lora import add_lora
from raymedlt.finetuning.model import ComposedConfig, ComposedModel, parameter_counts
from raymedlt.finetuning.processing import ComposedProcessing, Processing
from raymedlt.finetuning.vision import VisionEncoder, build_vision, timm_name
from raymedlt.loading import LOADING, LOCAL
from raymedlt.seeds import keyed_seed

Kind = Literal["composed", "hub"]

# SmolLM2-135M's sizes, with one more word for the image token: reading them from its packaged file takes 20 s.
_SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49153, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip


class Built(NamedTuple):
    """A model that is ready to learn."""

    model: Any
    """A transformers model, in training mode; frozen parts don't require gradients."""
    processing: Processing
    kind: Kind


class Shapes(NamedTuple):
    """What a model would take."""

    parameters: int
    learning: int
    """Parameters that learn."""

    def bytes_per_replica(self, stage: int, replicas: int, *, offload: bool = False) -> tuple[int, int]:
        """Memory of weights, gradients and AdamW's two moments, all float32: on the device, and offloaded to the CPU.

        ZeRO (Rajbhandari et al. 2020): stage 1 shards the moments over the replicas, 2 also the gradients, 3 also the
        weights. Activations and what the engine needs for its buffers come on top.
        """
        shared = [each / (replicas if stage >= at else 1) for at, each in self._parts()]
        moved = [each if offload and stage >= at else 0 for (at, _), each in zip(self._parts(), shared, strict=True)]
        return int(sum(shared) - sum(moved)), int(sum(moved))

    def _parts(self) -> list[tuple[int, float]]:
        return [(3, 4.0 * self.parameters), (2, 4.0 * self.learning), (1, 8.0 * self.learning)]


def build(config: ModelConfig, *, image_size: int, prompt: str, texts: Iterable[str], seed: int) -> Built:
    """The model of the section `model`; the same for the same arguments (and versions of torch and transformers).

    Every part has a start of its own, and torch's global generators are left untouched.

    Args:
        image_size: of the images that it gets, pixels a side.
        prompt: what it is asked beside the image.
        texts: training texts: the small language model knows their words.

    Raises:
        ConfigError: unknown names, weights that do not fit, heads that do not divide a width.
        InputError: no such folder, none in the hub's local cache, or pickled weights only.
        MissingDependencyError: a package that carries weights, or one that a processor needs, is not installed.
    """
    quiet()
    with LOADING:
        if config.path is not None:
            model, processing, kind = load_given(config.path, "model.path", image_size=image_size, prompt=prompt)
        else:
            model, processing, kind = *_composed(config, image_size, prompt, texts, seed), "composed"
        settle(model, config, seed)
    model.train()
    return Built(model, processing, kind)


def shapes(config: ModelConfig, *, image_size: int, texts: Iterable[str] = ()) -> Shapes:
    """The sizes of what `build` would make, on the meta device: needs config.json of a given model, not its weights.

    Args:
        texts: as in `build`; without them the small language model counts as one without words.

    Raises: as `build`.
    """
    quiet()
    with torch.device("meta"):
        if config.path is not None:
            with model_folder(config.path, "model.path", weights=False) as folder:
                model: Any = AutoModelForImageTextToText.from_config(_config_of(folder, config.path, "model.path"))
        else:
            model = _composed_shapes(config, image_size, texts)
    settle(model, config, 0)
    return Shapes(*parameter_counts(model))


def refuse_bad_model(config: ModelConfig, *, image_size: int) -> None:
    """Raise at once what `build` would raise after the images were prepared. Errors as `build`."""
    shapes(config, image_size=image_size)
    if config.path is None and config.vision_weights is not None:  # small beside a language model: read them
        with _seeded(0, "vision"):
            build_vision(config.vision, image_size, config.vision_weights)
    own = [("model.path", config.path)]
    if config.path is None and config.language not in (SMALL, SMOLLM2):
        own.append(("model.language", config.language))
    for key, name in own:
        if name is not None:
            with model_folder(name, key):
                pass


def settle(model: Any, config: ModelConfig, seed: int) -> None:
    """Decide which weights learn: add the LoRA, freeze the encoder, as the section `model` says."""
    if config.settled_method == "lora":
        add_lora(
            model, rank=config.lora_rank, alpha=config.lora_alpha, dropout=config.lora_dropout,
            targets=config.lora_targets, seed=seed,
        )  # fmt: skip
    if config.freeze_vision:
        encoder = vision_part(model)
        if isinstance(encoder, VisionEncoder):
            encoder.freeze()
        else:
            encoder.requires_grad_(False)


def vision_part(model: Any) -> nn.Module:
    """The vision encoder inside a vision-language model."""
    part: nn.Module = model.vision if isinstance(model, ComposedModel) else model.get_encoder(modality="image")
    return part


def load_given(
    name: str, key: str, *, image_size: int, prompt: str, dtype: torch.dtype = torch.float32
) -> tuple[Any, Processing, Kind]:
    """A vision-language model from a folder, its URI or the hub's local cache: Hugging Face's, or a composed one.

    Args:
        key: the configuration's key, for messages.

    Raises:
        InputError: no such folder, no safetensors weights, no image-text-to-text model, or weights that are missing.
        MissingDependencyError: a package that its processor needs is not installed.
    """
    quiet()
    with LOADING, model_folder(name, key) as folder:
        settings = _config_of(folder, name, key)
        options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, **LOCAL}
        model, told = AutoModelForImageTextToText.from_pretrained(str(folder), output_loading_info=True, **options)
        missing = sorted(told["missing_keys"])
        if missing:
            raise InputError(
                f"weights in '{name}' ({key}) that lack {len(missing)} tensors, such as '{missing[0]}'",
                "all of the model's weights",
                "copy the folder again",
            )
        if isinstance(settings, ComposedConfig):
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **LOCAL)
            if model.vision.image_size != image_size:
                raise ConfigError(
                    f"images of {image_size} pixels for the model '{name}' ({key})",
                    f"{model.vision.image_size}, the size that it was built for",
                    f"set images.size to {model.vision.image_size}",
                )
            return model, _processing(model, tokenizer, prompt), "composed"
        try:
            processor = AutoProcessor.from_pretrained(str(folder), **LOCAL)
        except ImportError as error:
            raise MissingDependencyError(
                f"the processor of '{name}' needs a package that is not installed ({type(error).__name__})",
                "",
                "pip install num2words for SmolVLM; for others see the model's page",
            ) from None
    if not hasattr(processor, "image_processor"):
        raise InputError(
            f"'{name}' ({key}) without a processor for images",
            "preprocessor_config.json and the tokenizer's files beside the weights",
            "copy the whole folder",
        )
    ends = model.generation_config.eos_token_id
    end_ids = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    processing = HubProcessing(processor, image_size=image_size, prompt=prompt, end_ids=end_ids)
    _told(model, processing)
    return model, processing, "hub"


def quiet() -> None:
    """No progress bars of transformers: a job's log is for its own lines."""
    logging.disable_progress_bar()


def _composed(
    config: ModelConfig, image_size: int, prompt: str, texts: Iterable[str], seed: int
) -> tuple[ComposedModel, Processing]:
    with _seeded(seed, "vision"):
        encoder = build_vision(config.vision, image_size, config.vision_weights)
    with _seeded(seed, "language"):
        language = build_language(config, [prompt, *texts])
    with _seeded(seed, "connector"):
        model = ComposedModel(_composed_config(config, encoder, language), language.model, encoder)
    if config.language == SMALL:  # torch's fused attention takes half of the time of so small a model on a CPU
        language.model.set_attn_implementation("eager")
    processing = _processing(model, language.tokenizer, prompt)
    _told(model, processing)
    return model, processing


def _composed_shapes(config: ModelConfig, image_size: int, texts: Iterable[str]) -> ComposedModel:
    given = config.vision == LITE0 or config.vision_weights is not None
    encoder = VisionEncoder(
        timm_name(config.vision),
        image_size,
        inputs=3 if config.vision == LITE0 else 1,
        findings=() if given else every_group(),
    )
    if config.language == SMALL:
        language = small_language(texts, config.small_width, config.small_layers, config.small_heads)
        text, image_id = language.model.config, language.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    elif config.language == SMOLLM2:
        text, image_id = LlamaConfig(**_SMOLLM2), _SMOLLM2["vocab_size"] - 1
    else:
        with model_folder(config.language, "model.language", weights=False) as folder:
            text = _config_of(folder, config.language, "model.language")
        text.vocab_size += 1
        image_id = text.vocab_size - 1
    _check_heads(config, text.hidden_size)
    return ComposedModel(_config(config, encoder, text, image_id), vision=encoder)


def _composed_config(config: ModelConfig, encoder: VisionEncoder, language: Language) -> ComposedConfig:
    _check_heads(config, language.model.config.hidden_size)
    image_id = language.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return _config(config, encoder, language.model.config, image_id)


def _config(config: ModelConfig, encoder: VisionEncoder, text: Any, image_id: int) -> ComposedConfig:
    return ComposedConfig(
        text_config=text,
        vision={
            "name": encoder.name, "image_size": encoder.image_size, "inputs": encoder.inputs,
            "findings": list(encoder.findings),
        },
        connector={
            "kind": config.connector, "queries": config.queries, "layers": config.query_layers,
            "heads": config.query_heads,
        },
        image_token_id=image_id,
    )  # fmt: skip


def _check_heads(config: ModelConfig, width: int) -> None:
    if config.connector == "queries" and width % config.query_heads:
        raise ConfigError(
            f"model.query_heads is {config.query_heads} and the language model {width} wide",
            f"a divisor of {width}",
            "change model.query_heads",
        )


def _processing(model: ComposedModel, tokenizer: Any, prompt: str) -> Processing:
    return ComposedProcessing(
        tokenizer, image_tokens=model.image_tokens, image_size=model.vision.image_size, prompt=prompt
    )


def _told(model: Any, processing: Processing) -> None:
    """The model's own generation settings: greedy, and where a report ends, for who uses it without this project."""
    settings = model.generation_config
    settings.eos_token_id, settings.pad_token_id = list(processing.end_ids), processing.pad_id
    settings.do_sample, settings.temperature, settings.top_p, settings.top_k = False, None, None, None


def _config_of(folder: Path, name: str, key: str) -> Any:
    values = json.loads((folder / "config.json").read_bytes())
    if values.get("auto_map"):
        raise InputError(
            f"'{name}' ({key}) brings program code of its own",
            "a model that transformers knows: code from a model's folder is never run",
            "choose another model",
        )
    try:
        settings = AutoConfig.from_pretrained(str(folder), **LOCAL)
    except (KeyError, ValueError):
        raise InputError(
            f"'{name}' ({key}) is a model of type {values.get('model_type')!r}, which transformers does not know",
            "a model of this version of transformers",
            "choose another model, or another version of transformers",
        ) from None
    if key != "model.language" and type(settings) not in AutoModelForImageTextToText._model_mapping:
        raise InputError(
            f"'{name}' ({key}) is a model of type {settings.model_type!r}",
            "an image-text-to-text model, such as Qwen2.5-VL, LLaVA, SmolVLM or Gemma 3",
            f"correct --{key}; a language model alone belongs into model.language",
        )
    return settings


@contextmanager
def _seeded(seed: int, part: str) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(seed, part))
        yield
