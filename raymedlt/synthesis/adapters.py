"""What was learnt on top of a frozen generator: one safetensors file with a card, apart from the generator.

    <folder>/adapter.safetensors   prompt tokens, rows of a textual inversion, or a LoRA's matrices

Its metadata hold the card as JSON: which generator it belongs to (hash), the method, classes, sizes. Nothing else is
needed to put it on that generator again, and it is refused on any other.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load, save

from raymedlt.errors import InputError
from raymedlt.seeds import keyed_seed
from raymedlt.storage import Storage, sha256_of
from raymedlt.synthesis import inversion
from raymedlt.synthesis.generator import Generator
from raymedlt.synthesis.settings import LORA_TARGETS
from raymedlt.synthesis.tokens import PromptTokens

FILE = "adapter.safetensors"
FORMAT = 1
AdapterMethod = Literal["tokens", "textual_inversion", "lora"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the file is about."""

    method: AdapterMethod
    base_hash: str
    """`generator_hash` of the generator that it was learnt on."""
    class_names: tuple[str, ...] = ()
    """Classes with vectors of their own."""
    shared: int = 0
    """Learnt vectors for every prompt: m."""
    per_class: int = 0
    """Learnt vectors per class."""
    width: int = 0
    """Of a vector: d."""
    lora: dict[str, Any] = field(default_factory=dict)
    """rank, alpha, targets."""
    about: dict[str, Any] = field(default_factory=dict)
    """Steps, seed, losses before and after: for people."""
    format: int = FORMAT


def add_tokens(
    generator: Generator, *, shared: int, per_class: int = 0, class_names: Sequence[str] = (), seed: int
) -> PromptTokens:
    """Give a generator prompt tokens that hardly change what it draws: copies of what the empty prompt is padded with.

    Args:
        shared: tokens for every prompt (m).
        per_class: tokens for each of `class_names`.
        seed: a little noise (a tenth of the spread) tells the copies apart; keyed.
    """
    _refuse_second(generator)
    names = tuple(class_names) if per_class else ()
    with torch.no_grad():
        empty_LD = generator.text_encoder(generator.token_ids([""]).to(generator.device)).last_hidden_state[0]
    padding_LD = empty_LD[2:].float().cpu()
    mean_D: torch.Tensor = padding_LD.mean(0)
    spread_D: torch.Tensor = padding_LD.std(0)
    random = torch.Generator().manual_seed(keyed_seed(seed, "prompt tokens"))

    def vectors(*shape: int) -> torch.Tensor:
        return mean_D + 0.1 * spread_D * torch.randn(*shape, len(mean_D), generator=random)

    generator.tokens = PromptTokens(vectors(shared), vectors(len(names) + 1, per_class), names).to(generator.device)
    return generator.tokens


def add_inversion(
    generator: Generator, *, shared: int, per_class: int = 0, class_names: Sequence[str] = (), seed: int
) -> inversion.Inversion:
    """Give a generator new words for textual inversion; they start near the mean of its input embeddings, keyed."""
    _refuse_second(generator)
    names = tuple(class_names) if per_class else ()
    table = generator.text_encoder.get_input_embeddings().weight.detach().float().cpu()
    random = torch.Generator().manual_seed(keyed_seed(seed, "textual inversion"))
    noise = torch.randn(shared + per_class * len(names), table.shape[1], generator=random)
    rows = table.mean(0) + 0.5 * table.std(0) * noise
    generator.inversion = inversion.install(
        generator.tokenizer, generator.text_encoder, rows, shared=shared, per_class=per_class, class_names=names
    )
    return generator.inversion


def add_lora(
    generator: Generator, *, rank: int, alpha: float, targets: Sequence[str] = LORA_TARGETS, seed: int
) -> None:
    """Give the U-Net a LoRA that changes nothing yet (B = 0; A by keyed seed).

    Source: Hu et al. 2022 (arXiv 2106.09685).
    """
    _refuse_second(generator)
    own: Any = alpha  # peft says int and divides
    config = LoraConfig(r=rank, lora_alpha=own, target_modules=list(targets), lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(seed, "lora"))
        inject_adapter_in_model(config, generator.unet)
    generator.unet.to(generator.device)
    generator.lora = {"rank": rank, "alpha": alpha, "targets": list(targets)}


def card_of(generator: Generator, about: dict[str, Any] | None = None) -> Card:
    """The card of what sits on this generator. Raises InputError: nothing does, or the generator lies in no folder."""
    if not generator.base_hash:
        raise InputError(
            "a generator that was changed and not saved", "one from a folder", "save_generator comes first"
        )
    common: dict[str, Any] = {"base_hash": generator.base_hash, "about": about or {}}
    if generator.tokens is not None:
        own = generator.tokens
        return Card(
            method="tokens", class_names=own.class_names, shared=len(own.shared_MD), per_class=own.own_KMD.shape[1],
            width=own.shared_MD.shape[1], **common,
        )  # fmt: skip
    if generator.inversion is not None:
        words = generator.inversion
        return Card(
            method="textual_inversion", class_names=words.class_names, shared=words.shared, per_class=words.per_class,
            width=words.learnt_ND.shape[1], **common,
        )  # fmt: skip
    if generator.lora:
        return Card(method="lora", lora=generator.lora, **common)
    raise InputError("a generator with nothing learnt on top", "tokens, a textual inversion or a LoRA")


def tensors_of(generator: Generator) -> dict[str, torch.Tensor]:
    """The learnt tensors by the names they have in the file."""
    if generator.tokens is not None:
        found = dict(generator.tokens.state_dict())
    elif generator.inversion is not None:
        found = {"learnt_ND": generator.inversion.learnt_ND}
    else:
        found = dict(get_peft_model_state_dict(generator.unet))
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in found.items()}


def save_adapters(generator: Generator, folder: str, about: dict[str, Any] | None = None) -> Card:
    """Write what was learnt on top of a frozen generator to a folder or URI."""
    card = card_of(generator, about)
    data = save(tensors_of(generator), metadata={"card": json.dumps(asdict(card), sort_keys=True)})
    Storage.of(folder).write_bytes(FILE, data)
    return card


def load_adapters(generator: Generator, folder: str, *, merge: bool = True) -> Card:
    """Put what was learnt on the generator that it was learnt on.

    Args:
        generator: loaded from its folder, with nothing on top.
        merge: add a LoRA's products to the weights (as fast as without it); else it stays apart and can learn on.

    Raises:
        InputError: no such file, another generator, or tensors that aren't what the card says.
    """
    card, tensors = read_adapters(folder)
    if card.base_hash != generator.base_hash:
        raise InputError(
            f"adapters in '{Storage.of(folder).uri}' that were learnt on generator {card.base_hash[:12]}",
            f"this generator, {generator.base_hash[:12]}",
            "load them with the generator they belong to, or learn them again",
        )
    try:
        if card.method == "tokens":
            _refuse_second(generator)
            generator.tokens = PromptTokens(tensors["shared_MD"], tensors["own_KMD"], card.class_names)
            generator.tokens.to(generator.device)
        elif card.method == "textual_inversion":
            generator.inversion = inversion.install(
                generator.tokenizer, generator.text_encoder, tensors["learnt_ND"],
                shared=card.shared, per_class=card.per_class, class_names=card.class_names,
            )  # fmt: skip
        else:
            own = card.lora
            add_lora(generator, rank=own["rank"], alpha=own["alpha"], targets=own["targets"], seed=0)
            told: Any = set_peft_model_state_dict(generator.unet, tensors)
            if told.unexpected_keys or any("lora_" in key for key in told.missing_keys):
                raise KeyError("LoRA matrices")
            if merge:
                generator.unet.fuse_lora()
                generator.unet.unload_lora()
                generator.lora = {}
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"tensors in '{Storage.of(folder).uri}/{FILE}' that differ from its card ({type(error).__name__})",
            f"those of the method '{card.method}'",
            "learn it again",
        ) from None
    return card


def read_adapters(folder: str) -> tuple[Card, dict[str, torch.Tensor]]:
    """Card and tensors of a folder. Raises InputError: no adapters there, or of another version."""
    storage = Storage.of(folder)
    try:
        data = storage.read_bytes(FILE)
    except FileNotFoundError:
        raise InputError(
            f"no {FILE} in '{storage.uri}'", "the folder of a finished training of tokens, inversion or LoRA"
        ) from None
    try:
        (length,) = struct.unpack("<Q", data[:8])
        values = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["card"])
        if values.get("format") != FORMAT:
            raise InputError(f"adapters of format {values.get('format')}", f"format {FORMAT}", "learn them again")
        values["class_names"] = tuple(values["class_names"])
        return Card(**values), dict(load(data))
    except (KeyError, TypeError, ValueError, struct.error, SafetensorError):
        raise InputError(f"'{storage.uri}/{FILE}' holds no readable card", "a file that raymedlt wrote") from None


def adapters_hash(folder: str) -> str:
    """SHA-256 of the file. Raises InputError: there is none."""
    read_adapters(folder)
    return sha256_of(Storage.of(folder).read_bytes(FILE))


def _refuse_second(generator: Generator) -> None:
    if generator.tokens is not None or generator.inversion is not None or generator.lora:
        raise InputError("a generator that already has something learnt on top", "a plain one", "load it again")
