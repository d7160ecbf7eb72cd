"""A small latent diffusion model from scratch, in the folder layout of the large ones.

For use offline, for tests and for small images: an autoencoder (4 pixels to a latent along each side), a U-Net with
cross attention on 16 x 16 latents for 64 pixels, a text encoder, and a tokenizer that knows whole words. All weights
are random: train the autoencoder (autoencoder.py), then the rest (learning.py with method "full").

Source: Rombach et al. 2022 (arXiv 2112.10752) for the design.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from raymedlt.errors import InputError
from raymedlt.seeds import keyed_seed
from raymedlt.synthesis.generator import Generator
from raymedlt.synthesis.settings import SmallSizes

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_NORM_GROUPS = 16


def build_small(words: Iterable[str], sizes: SmallSizes, seed: int) -> Generator:
    """A small generator with random weights, the same for the same arguments.

    Args:
        words: that prompts are made of; each is one token. Any other text is spelt by bytes.

    Raises:
        ConfigError: sizes that don't fit together.
        InputError: no words.
    """
    tokenizer = word_tokenizer(words, sizes.prompt_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(seed, "small generator"))
        text_encoder: Any = CLIPTextModel(_text_config(tokenizer, sizes))
        unet = _unet(sizes)
        vae = _vae(sizes)
    generator = Generator(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        scheduler_config={
            "_class_name": "DPMSolverMultistepScheduler",
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": sizes.prediction,
            "timestep_spacing": "trailing",
            "steps_offset": 1,  # unused with that spacing; diffusers warns where it is missing
        },
        size=sizes.size,
    )
    generator.freeze()
    return generator


def word_tokenizer(words: Iterable[str], longest: int) -> Any:
    """A CLIPTokenizer whose vocabulary is these words, and bytes for everything else.

    The merges are learnt from the words until each is one token: byte-pair encoding with the commonest pair first
    (Sennrich et al. 2016), ties by the alphabet. Case doesn't count; digits and punctuation are tokens of their own.

    Raises:
        InputError: no words.

    Complexity: O(merges x letters of the distinct words): 500 words take about a second.
    """
    plain = CLIPTokenizer()
    backend = plain.backend_tokenizer
    pieces = {
        piece
        for word in words
        for piece, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(word))
    }
    if not pieces:
        raise InputError("no words", "the vocabulary of the prompts")
    letters = sorted(ByteLevel.alphabet())
    merges = _merges(sorted(pieces))
    symbols = [START, END, *letters, *(letter + _WORD_END for letter in letters), *(a + b for a, b in merges)]
    vocabulary = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=longest)


def _merges(pieces: list[str]) -> list[tuple[str, str]]:
    split = [[*piece[:-1], piece[-1] + _WORD_END] for piece in pieces]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for symbols in split for pair in itertools.pairwise(symbols))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_merged(symbols, best) for symbols in split]


def _merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    i = 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            result.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            result.append(symbols[i])
            i += 1
    return result


def _text_config(tokenizer: Any, sizes: SmallSizes) -> Any:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.text_width,
        intermediate_size=4 * sizes.text_width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_width // sizes.head_width,
        max_position_embeddings=sizes.prompt_tokens,
        projection_dim=sizes.text_width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _unet(sizes: SmallSizes) -> Any:
    plain = [number < sizes.unet_plain_blocks for number in range(len(sizes.unet_channels))]
    return UNet2DConditionModel(
        sample_size=sizes.size // 2 ** (len(sizes.vae_channels) - 1),
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        layers_per_block=sizes.unet_layers,
        block_out_channels=sizes.unet_channels,
        down_block_types=tuple("DownBlock2D" if each else "CrossAttnDownBlock2D" for each in plain),
        up_block_types=tuple("UpBlock2D" if each else "CrossAttnUpBlock2D" for each in reversed(plain)),
        cross_attention_dim=sizes.text_width,
        # diffusers' name for the number of heads (its issue 2011)
        attention_head_dim=tuple(width // sizes.head_width for width in sizes.unet_channels),
        use_linear_projection=True,
        norm_num_groups=_NORM_GROUPS,
    )


def _vae(sizes: SmallSizes) -> Any:
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        sample_size=sizes.size,
        latent_channels=sizes.latent_channels,
        block_out_channels=sizes.vae_channels,
        layers_per_block=sizes.vae_layers,
        down_block_types=("DownEncoderBlock2D",) * len(sizes.vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(sizes.vae_channels),
        norm_num_groups=_NORM_GROUPS,
        mid_block_add_attention=False,  # one chest's parts know each other through convolutions at this size
    )
