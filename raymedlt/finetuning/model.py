"""SemEnrich's composed vision-language model: vision encoder, connector, causal language model.

    e_t = image token number j     where input_ids_t is the j-th image slot of its row
        = embedding(input_ids_t)   elsewhere
    logits = language model(e)

It is a transformers model: `save_pretrained`, `from_pretrained`, `generate`, peft and gradient checkpointing work as on
any other. The loss is the trainer's (engines.py).

Shapes: B rows, L tokens, T image tokens, S pixels a side, D width, V words, N target tokens.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig
from transformers.generation import GenerationMixin
from transformers.modeling_utils import PreTrainedModel

from raymedlt.errors import InputError
from raymedlt.finetuning.connector import Connector
from raymedlt.finetuning.vision import VisionEncoder


class ComposedConfig(PreTrainedConfig):  # type: ignore[misc]
    """What the composed model is made of."""

    model_type = "raymedlt_composed"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012

    text_config: dict | PreTrainedConfig | None = None  # type: ignore[type-arg]
    """Of the language model."""
    vision: dict = field(default_factory=dict)  # type: ignore[type-arg]
    """Arguments of `VisionEncoder`."""
    connector: dict = field(default_factory=dict)  # type: ignore[type-arg]
    """Arguments of `Connector` but levels and width."""
    image_token_id: int = 0
    """Marks an image slot in `input_ids`."""
    tie_word_embeddings: bool = False
    """Of the composed model itself, which has no words; the language model's own key says whether its are tied."""

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.text_config, dict):
            values = dict(self.text_config)
            self.text_config = AutoConfig.for_model(values.pop("model_type"), **values)
        super().__post_init__(**kwargs)


class ComposedModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The model of the module docstring.

    Args:
        config: its parts.
        language_model: a causal language model of config.text_config; None: a fresh one.
        vision: an encoder of config.vision; None: a fresh one.

    Shapes:
        input_ids [B, L], attention_mask [B, L], pixel_values [B, S, S] uint8 -> output with logits [B, L, V]

    Raises:
        InputError: rows whose image slots are not `image_tokens`, or images of another size.
    """

    config_class = ComposedConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["LlamaDecoderLayer"]  # noqa: RUF012

    def __init__(
        self, config: ComposedConfig, language_model: nn.Module | None = None, vision: VisionEncoder | None = None
    ) -> None:
        super().__init__(config)
        text: Any = config.text_config
        self.vision = VisionEncoder(**config.vision) if vision is None else vision
        self.connector = Connector(self.vision.levels, text.hidden_size, **config.connector)
        given: Any = AutoModelForCausalLM.from_config(text) if language_model is None else language_model
        self.language_model = given
        # transformers forgets it for a model that is given; without it the model would see the words to come.
        given.set_attn_implementation(self.config._attn_implementation)
        self.post_init()

    @property
    def image_tokens(self) -> int:
        """Image slots of a row: T."""
        return self.connector.tokens

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """The language model's."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's."""
        embeddings: nn.Module = self.language_model.get_output_embeddings()
        return embeddings

    def image_embeddings(self, pixel_values: Tensor) -> Tensor:
        """Image tokens of uint8 images [B, S, S]: float [B, T, D]."""
        tokens_BTD: Tensor = self.connector(self.vision(pixel_values))
        return tokens_BTD

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """What the language model gives out; its logits only at `logits_to_keep` (0: everywhere; a number: the last
        ones; a tensor: these columns)."""
        return self.language_model(
            **self._embedded(input_ids, attention_mask, pixel_values, inputs_embeds, past_key_values),
            position_ids=position_ids, past_key_values=past_key_values, use_cache=use_cache,
            logits_to_keep=logits_to_keep,
        )  # fmt: skip

    @property
    def base_model(self) -> Any:
        """What gives out hidden states instead of logits, as TRL asks for it."""
        return self.hidden_states

    def hidden_states(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As `forward`, without the head: output with last_hidden_state [B, L, D]."""
        inputs = self._embedded(input_ids, attention_mask, pixel_values, None, None)
        return self.language_model.base_model(**inputs, use_cache=use_cache)

    def _embedded(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        pixel_values: Tensor | None,
        inputs_embeds: Tensor | None,
        past_key_values: Any,
    ) -> dict[str, Any]:
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            if input_ids is None:
                raise InputError("images without input_ids", "input_ids with an image token in every image slot")
            inputs_embeds = self._with_images(input_ids, inputs_embeds, pixel_values)
        if past_key_values is None and attention_mask is not None and _right_padded(attention_mask):
            attention_mask = None  # what follows a token doesn't reach it; without a mask attention is faster
        return {"inputs_embeds": inputs_embeds, "attention_mask": attention_mask}

    def _with_images(self, input_ids: Tensor, embeddings_BLD: Tensor, pixel_values: Tensor) -> Tensor:
        slots_BL = input_ids == self.config.image_token_id
        tokens_BTD = self.image_embeddings(pixel_values).to(embeddings_BLD.dtype)
        counts = slots_BL.sum(1)
        if len(tokens_BTD) != len(input_ids) or bool((counts != self.image_tokens).any()):
            raise InputError(
                f"{len(tokens_BTD)} images and rows with {int(counts.min())} to {int(counts.max())} image slots",
                f"one image per row, and {self.image_tokens} slots in each",
                "make the batch with this model's own processing",
            )
        return embeddings_BLD.masked_scatter(slots_BL[..., None], tokens_BTD)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, is_first_iteration: bool | None = False, pixel_values: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As in transformers; the images are read once, with the prompt."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["pixel_values"] = pixel_values
        return inputs

    def _init_weights(self, module: Any) -> None:
        # Parts are born with their weights, or get them from a file; only what no file holds is made again.
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()


def _right_padded(mask_BL: Tensor) -> bool:
    return mask_BL.ndim == 2 and bool(mask_BL[:, 0].all() & (mask_BL.diff(dim=1) <= 0).all())


AutoConfig.register(ComposedConfig.model_type, ComposedConfig)
AutoModelForImageTextToText.register(ComposedConfig, ComposedModel)
AutoModelForCausalLM.register(ComposedConfig, ComposedModel)


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Parameters in all, and those that learn."""
    every = list(model.parameters())
    return sum(each.numel() for each in every), sum(each.numel() for each in every if each.requires_grad)
