"""Generators on disk, in diffusers' Stable Diffusion layout, with safetensors weights and nothing pickled.

    model_index.json                     which class each part is of
    tokenizer/                           vocab.json and merges.txt, or tokenizer.json
    text_encoder/ unet/ vae/             config.json and *.safetensors
    scheduler/scheduler_config.json      the noise schedule

Other pipelines of diffusers with these parts (Stable Diffusion 1 and 2, RoentGen-v2) are loaded from a folder, a URI or
the hub's local cache. What was learnt on top of a frozen generator lies in a folder of its own (adapters.py).
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging

from raymedlt.errors import InputError
from raymedlt.storage import Storage
from raymedlt.synthesis.generator import Generator, vae_factor
from raymedlt.synthesis.losses import Schedule

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
NETWORKS = {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
_KINDS = (".json", ".txt", ".safetensors")
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_READ = 1 << 22  # bytes at a time


def load_generator(
    path_or_hub_name: str,
    *,
    adapters: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Generator:
    """A generator that is ready to draw: frozen, on `device`, with its adapters.

    Args:
        path_or_hub_name: a folder, its URI, or a name on the hub (from the local cache; from the network only where
            HF_HUB_OFFLINE=0 was set by the user).
        adapters: folder or URI of what was learnt on top of it (see adapters.py).
        dtype: of the weights.

    Raises:
        InputError: a part is missing, of another kind, or pickled; adapters of another generator.
    """
    logging.disable_progress_bar()
    with local_folder(path_or_hub_name) as folder:
        index = check_folder(folder, path_or_hub_name)
        variants = {part: _variant(folder / part) for part in NETWORKS}
        options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
        tokenizer: Any = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
        text_encoder = CLIPTextModel.from_pretrained(
            str(folder / "text_encoder"), dtype=dtype, variant=variants["text_encoder"], **options
        )
        unet = UNet2DConditionModel.from_pretrained(
            str(folder / "unet"), torch_dtype=dtype, variant=variants["unet"], low_cpu_mem_usage=False, **options
        )
        vae = AutoencoderKL.from_pretrained(
            str(folder / "vae"), torch_dtype=dtype, variant=variants["vae"], low_cpu_mem_usage=False, **options
        )
        scheduler_config = json.loads((folder / SCHEDULER).read_bytes())
        base_hash = _hash_of(Storage.of(str(folder)))
    generator = Generator(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        scheduler_config=scheduler_config,
        size=int(unet.config["sample_size"]) * vae_factor(vae),
        base_hash=base_hash,
    )
    _check_parts(generator, path_or_hub_name, index)
    if adapters is not None:
        from raymedlt.synthesis.adapters import load_adapters

        load_adapters(generator, adapters)
    generator.freeze()
    return generator.to(device)


def save_generator(generator: Generator, folder: str) -> str:
    """Write the generator's five parts to a folder or URI; returns its `generator_hash`, which it has from now on.

    model_index.json is written last: a folder without it is not a generator.

    Raises:
        InputError: something learnt sits on top of it (adapters.py saves that, apart from the generator).
    """
    if generator.tokens is not None or generator.inversion is not None or generator.lora:
        raise InputError(
            "a generator with learnt tokens, a textual inversion or a LoRA on top",
            "a plain one",
            "save what was learnt with adapters.save_adapters",
        )
    logging.disable_progress_bar()
    storage = Storage.of(folder)
    with tempfile.TemporaryDirectory() as name:
        local = Path(name)
        _write_tokenizer(generator.tokenizer, local / "tokenizer")
        for part in NETWORKS:
            network: Any = getattr(generator, part)
            network.save_pretrained(str(local / part), safe_serialization=True)
        (local / "scheduler").mkdir()
        (local / SCHEDULER).write_bytes(_json(generator.scheduler_config))
        for file in sorted(path for path in local.rglob("*") if path.is_file()):
            data = file.read_bytes()
            if file.suffix == ".json":
                data = _json(_without_paths(json.loads(data)))
            storage.write_bytes(file.relative_to(local).as_posix(), data)
    storage.write_bytes(INDEX, _json(_index_of(generator)))
    generator.base_hash = _hash_of(storage)
    return generator.base_hash


def generator_hash(path_or_hub_name: str, adapters: str | None = None) -> str:
    """SHA-256 over the names and contents of the files that make the generator, 64 hexadecimal digits.

    Args:
        path_or_hub_name: as `load_generator`.
        adapters: their files count too.

    Raises:
        InputError: no generator there.
    """
    with local_folder(path_or_hub_name) as folder:
        check_folder(folder, path_or_hub_name)
        base = _hash_of(Storage.of(str(folder)))
    if adapters is None:
        return base
    from raymedlt.synthesis.adapters import adapters_hash

    return hashlib.sha256(f"{base}\n{adapters_hash(adapters)}".encode()).hexdigest()


def generator_size(path_or_hub_name: str) -> int:
    """Pixels per side of a generator's images, from its configuration alone. Raises InputError: no generator there."""
    with local_folder(path_or_hub_name) as folder:
        check_folder(folder, path_or_hub_name)
        unet, vae = (json.loads((folder / part / "config.json").read_bytes()) for part in ("unet", "vae"))
    return int(unet["sample_size"]) * int(2 ** (len(vae["block_out_channels"]) - 1))


@contextmanager
def local_folder(path_or_hub_name: str) -> Iterator[Path]:
    """The generator's folder on a local disk; what lies on an object store is copied for as long as this lasts.

    Raises:
        InputError: neither a folder nor in the hub's local cache.
    """
    if "://" in path_or_hub_name:
        storage = Storage.of(path_or_hub_name)
        if storage.is_local:
            yield Path(storage.location)
            return
        with tempfile.TemporaryDirectory() as name:
            for file in storage.list_files():
                if _counts(file):
                    target = Path(name) / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(storage.read_bytes(file))
            yield Path(name)
        return
    if Path(path_or_hub_name).expanduser().is_dir():
        yield Path(path_or_hub_name).expanduser()
        return
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = [INDEX, *(f"{part}/*{kind}" for part in PARTS for kind in _KINDS)]
    try:
        found = Path(snapshot_download(path_or_hub_name, allow_patterns=patterns))
    except (OSError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
        raise InputError(
            f"the generator '{path_or_hub_name}' is neither a folder nor in the local cache ({type(error).__name__})",
            "a folder in diffusers' Stable Diffusion layout, or a hub name in the local cache",
            "check --generator.path; to download from the hub set HF_HUB_OFFLINE=0",
        ) from None
    yield found


def check_folder(folder: Path, name: str) -> dict[str, Any]:
    """What model_index.json says, if the folder holds all parts as safetensors.

    Args:
        name: how the user calls the folder, for messages.

    Raises:
        InputError: with the part and the fix.
    """
    layout = "a folder in diffusers' Stable Diffusion layout"
    if not (folder / INDEX).is_file():
        raise InputError(f"no {INDEX} in '{name}'", layout, "give the folder that holds it, or let its training finish")
    index: dict[str, Any] = json.loads((folder / INDEX).read_bytes())
    for part, wanted in NETWORKS.items():
        got = (index.get(part) or [None, None])[1]
        if got != wanted:
            raise InputError(f"the {part} of '{name}' is a {got}", f"a {wanted}", "use a Stable Diffusion 1 or 2 model")
        if not (folder / part / "config.json").is_file():
            raise InputError(f"no {part}/config.json in '{name}'", layout)
        files = sorted(path.name for path in (folder / part).iterdir())
        if not any(file.endswith(".safetensors") for file in files):
            pickled = [file for file in files if file.endswith(_PICKLED)]
            raise InputError(
                f"no {part}/*.safetensors in '{name}'" + (f", only pickled weights ({pickled[0]})" if pickled else ""),
                "weights as safetensors: a pickled file can run code when it is opened",
                "convert a model you trust with diffusers, in a place of its own: save_pretrained writes safetensors",
            )
    if not any((folder / "tokenizer" / file).is_file() for file in ("vocab.json", "tokenizer.json")):
        raise InputError(f"no tokenizer/vocab.json in '{name}'", layout)
    if not (folder / SCHEDULER).is_file():
        raise InputError(f"no {SCHEDULER} in '{name}'", layout)
    return index


def _variant(part: Path) -> str | None:
    """Half-precision files are named apart ("….fp16.safetensors"): they are taken where there are no others."""
    names = [path.name for path in part.iterdir() if path.name.endswith(".safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


def _check_parts(generator: Generator, name: str, index: dict[str, Any]) -> None:
    width, wanted = generator.text_encoder.config.hidden_size, generator.unet.config["cross_attention_dim"]
    channels, latents = generator.unet.config["in_channels"], generator.vae.config["latent_channels"]
    if width != wanted or channels != latents:
        raise InputError(
            f"the parts of '{name}' don't fit: text {width} wide and {latents} latent channels, "
            f"the U-Net takes {wanted} and {channels}",
            "a text-to-image model whose parts were trained together",
        )
    if generator.vae.config["in_channels"] not in (1, 3):
        raise InputError(f"images of {generator.vae.config['in_channels']} channels in '{name}'", "1 or 3")
    Schedule.of(generator.scheduler_config)  # refuses predictions that can't be trained or sampled here


def _hash_of(storage: Storage) -> str:
    digest = hashlib.sha256()
    for name in storage.list_files():
        if _counts(name):
            info = storage.filesystem.get_file_info(storage.path(name))
            digest.update(f"{name}\0{_file_hash(storage, name, info.size, info.mtime_ns)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _file_hash(storage: Storage, name: str, size: int, changed_ns: int | None) -> str:
    """SHA-256 of a file: read once per process as long as size and time of change stay the same."""
    digest = hashlib.sha256()
    with storage.open_input(name) as file:
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()


def _counts(name: str) -> bool:
    """Whether the file `name` of a generator's folder is part of it (and not a README, a checkpoint, an adapter)."""
    return name == INDEX or (posixpath.dirname(name) in PARTS and name.endswith(_KINDS))


def _write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """vocab.json, merges.txt and the few settings that belong to the model (save_pretrained also writes how it was
    loaded and last used)."""
    folder.mkdir()
    tokenizer.backend_tokenizer.model.save(str(folder))
    special = ("bos_token", "eos_token", "unk_token", "pad_token")
    settings = {name: str(getattr(tokenizer, name)) for name in special}
    settings |= {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.model_max_length}
    (folder / "tokenizer_config.json").write_bytes(_json(settings))


def _index_of(generator: Generator) -> dict[str, Any]:
    networks = {
        part: ["transformers" if part == "text_encoder" else "diffusers", kind] for part, kind in NETWORKS.items()
    }
    return {
        "_class_name": "StableDiffusionPipeline",
        **networks,
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", generator.scheduler_config.get("_class_name", "DDIMScheduler")],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }


def _without_paths(value: Any) -> Any:
    """A configuration without the place that it was loaded from: it isn't part of the model."""
    dropped = ("_name_or_path", "name_or_path")
    return {key: each for key, each in value.items() if key not in dropped} if isinstance(value, dict) else value


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
