"""LoRA on the language part of a vision-language model, and files of what was learnt beside frozen weights.

    W x + (alpha / rank) B A x        A random by keyed seed, B = 0: nothing changes before the first step

    <folder>/adapter.safetensors      every learning tensor by its name: LoRA matrices, connector, vision encoder

The file's metadata hold a card as JSON: what model it belongs to and how the LoRA is made.

Source: Hu et al. 2022 (arXiv 2106.09685).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from raymedlt.errors import ConfigError, InputError
from raymedlt.finetuning.config import LORA_TARGETS
from raymedlt.finetuning.model import ComposedModel
from raymedlt.seeds import keyed_seed
from raymedlt.storage import FileEntry, Storage

FILE = "adapter.safetensors"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class AdapterCard:
    """What the file is about."""

    base: str
    """The model that it was learnt on, as the configuration names it."""
    rank: int
    alpha: float
    targets: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)
    """For people."""
    format: int = FORMAT


def language_part(model: Any) -> nn.Module:
    """The language model inside a vision-language model."""
    part: nn.Module = model.language_model if isinstance(model, ComposedModel) else model.get_decoder()
    return part


def add_lora(
    model: Any, *, rank: int, alpha: float, dropout: float, targets: Sequence[str] = LORA_TARGETS, seed: int
) -> None:
    """Freeze the language part and put LoRA matrices beside its layers; they change nothing yet.

    Vision encoder and connector of the model stay as they are.

    Raises:
        ConfigError: none of its layers has one of these names.
        InputError: the model already has a LoRA.
    """
    part = language_part(model)
    if has_lora(model):
        raise InputError("a model that already has a LoRA", "a plain one", "merge it first (lora.merge)")
    linear = sorted({name.rpartition(".")[2] for name, each in part.named_modules() if isinstance(each, nn.Linear)})
    if not set(targets) & set(linear):
        raise ConfigError(
            f"model.lora_targets is {list(targets)}, and the language model has no such layers",
            f"some of {', '.join(linear)}",
            "correct model.lora_targets",
        )
    part.requires_grad_(False)
    head = model.get_output_embeddings()
    if head is not None:  # beside the language part in most of Hugging Face's models
        head.requires_grad_(False)
    own: Any = alpha  # peft says int and divides
    config = LoraConfig(r=rank, lora_alpha=own, target_modules=list(targets), lora_dropout=dropout)
    on_meta = next(part.parameters()).device.type == "meta"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(seed, "lora"))
        inject_adapter_in_model(config, part, low_cpu_mem_usage=on_meta)


def has_lora(model: nn.Module) -> bool:
    """Whether LoRA matrices sit beside some of its layers."""
    return any(isinstance(each, BaseTunerLayer) for each in model.modules())


def merge(model: nn.Module) -> None:
    """Add the LoRA's products to the weights and take the matrices away: as fast as without it, and saved as such."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                layer: Any = child
                layer.merge(safe_merge=True)
                setattr(parent, name, layer.get_base_layer())
    if hasattr(language_part(model), "peft_config"):
        del language_part(model).peft_config


def learnt_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The learning parameters by name, on the CPU, float32."""
    return {
        name: each.detach().float().cpu().contiguous()
        for name, each in model.named_parameters() if each.requires_grad
    }  # fmt: skip


def save_adapter(tensors: Mapping[str, Tensor], card: AdapterCard, storage: Storage) -> FileEntry:
    """Write what was learnt (`learnt_tensors`) to a folder."""
    data = save(dict(tensors), metadata={"card": json.dumps(asdict(card), sort_keys=True)})
    return storage.write_bytes(FILE, data)


def read_adapter(folder: str) -> tuple[AdapterCard, dict[str, Tensor]]:
    """Card and tensors of a folder. Raises InputError: no adapter there, or of another version."""
    storage = Storage.of(folder)
    try:
        data = storage.read_bytes(FILE)
    except FileNotFoundError:
        raise InputError(f"no {FILE} in '{storage.uri}'", "the folder of a finished training with LoRA") from None
    try:
        (length,) = struct.unpack("<Q", data[:8])
        values = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["card"])
        if values.get("format") != FORMAT:
            raise InputError(f"an adapter of format {values.get('format')}", f"format {FORMAT}", "learn it again")
        values["targets"] = tuple(values["targets"])
        return AdapterCard(**values), dict(load(data))
    except (KeyError, TypeError, ValueError, struct.error, SafetensorError):
        raise InputError(f"'{storage.uri}/{FILE}' holds no readable card", "a file that raymedlt wrote") from None


def load_adapter(model: Any, folder: str) -> AdapterCard:
    """Put what was learnt on the model that it was learnt on; the LoRA stays apart and can learn on.

    Args:
        model: as `build` made it, with or without the LoRA.

    Raises:
        InputError: no such file, or tensors that do not fit this model.
    """
    card, tensors = read_adapter(folder)
    if not has_lora(model) and any("lora_" in name for name in tensors):
        add_lora(model, rank=card.rank, alpha=card.alpha, dropout=0.0, targets=card.targets, seed=0)
    own = dict(model.named_parameters())
    matrices = {name for name in own if "lora_" in name}
    wrong = sorted(
        (matrices - tensors.keys())
        | {name for name in tensors if name not in own or own[name].shape != tensors[name].shape}
    )
    if wrong:
        raise InputError(
            f"an adapter in '{Storage.of(folder).uri}' of which {len(wrong)} tensors do not fit, such as '{wrong[0]}'",
            f"the model that it was learnt on, '{card.base}'",
            "build that model, with the same words and sizes",
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    return card
