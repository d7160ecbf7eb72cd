"""The finished model as a folder that plain transformers, and `raymedlt.finetuning.load`, read.

    config.json, generation_config.json, *.safetensors     the model, LoRA merged
    tokenizer and processor files
    raymedlt.json                                          what images it sees, what it is asked, how it answers

Where a LoRA was learnt, the folder `adapter` beside it holds what was learnt alone (lora.py).

A Hugging Face model is read by `AutoModelForImageTextToText.from_pretrained`; the composed one too, once
`raymedlt.finetuning.model` is imported, which registers it. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from raymedlt import __version__
from raymedlt.config import config_hash
from raymedlt.finetuning.build import load_given
from raymedlt.finetuning.config import FinetuneConfig
from raymedlt.finetuning.lora import AdapterCard, has_lora, learnt_tensors, merge, save_adapter
from raymedlt.finetuning.model import parameter_counts
from raymedlt.finetuning.processing import Processing
from raymedlt.ledger import Ledger
from raymedlt.machine import Settings
from raymedlt.storage import FileEntry, Storage

EXPORT = "export"
MODEL = "model"
"""Folder of the finished model in a run."""
ADAPTER = "adapter"
"""Folder of what was learnt beside frozen weights."""
ABOUT = "raymedlt.json"
FORMAT = 1


def export_model(
    model: Any, processing: Processing, config: FinetuneConfig, settings: Settings, name: str, ledger: Ledger
) -> None:
    """Write the folder `model` of a run and commit it. A LoRA is merged into `model` itself."""
    parameters, learning = parameter_counts(model)
    about = {
        "format": FORMAT,
        "images": {"size": config.images.size, "fit": config.images.fit, "max_pixels": config.images.max_pixels},
        "generation": {
            "batch": config.generation.batch, "max_tokens": config.generation.max_tokens,
            "precision": settings.precision,
        },
        "text": {"prompt": config.text.prompt, "format": config.text.format},
        "phantom": config.images.path is None,
        "configuration": config_hash(config),
        "raymedlt": __version__,
    }  # fmt: skip
    entries = []
    if has_lora(model):
        own = config.model
        base = own.path or own.language
        card = AdapterCard(base=base, rank=own.lora_rank, alpha=own.lora_alpha, targets=own.lora_targets)
        entries.append(_inside(ADAPTER, save_adapter(learnt_tensors(model), card, ledger.storage.sub(ADAPTER))))
    saved = save_model(model, processing, about, ledger.storage.sub(MODEL))
    entries += [_inside(MODEL, each) for each in saved]
    ledger.commit(EXPORT, name, entries, {"parameters": parameters, "learning": learning})


def _inside(folder: str, entry: FileEntry) -> FileEntry:
    return FileEntry(f"{folder}/{entry.name}", entry.sha256, entry.bytes)


def save_model(model: Any, processing: Processing, about: dict[str, Any], storage: Storage) -> list[FileEntry]:
    """Write a model, its LoRA merged, its processing and `about` to a folder; the files.

    Memory: one file of weights (at most 2 GB) beside the model.
    """
    merge(model)
    # save_pretrained asks accelerate, which imports DeepSpeed, which would print what it works on.
    os.environ.setdefault("DS_ACCELERATOR", next(model.parameters()).device.type)
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder)
        model.save_pretrained(str(local), max_shard_size="2GB")
        processing.save(local)
        for file in sorted(path for path in local.rglob("*") if path.is_file()):
            data = file.read_bytes()
            if file.suffix == ".json":
                data = _json(_without_paths(json.loads(data)))
            entries.append(storage.write_bytes(file.relative_to(local).as_posix(), data))
            file.unlink()
    return [*entries, storage.write_bytes(ABOUT, _json(about))]


def load_export(folder: Path, about: dict[str, Any]) -> tuple[Any, Processing]:
    """The model of an exported folder, float32, and its processing.

    Raises:
        InputError: a damaged folder.
    """
    model, processing, _ = load_given(
        str(folder), "the model's folder", image_size=about["images"]["size"], prompt=about["text"]["prompt"]
    )
    return model, processing


def _without_paths(value: Any) -> Any:
    """Settings without the places that parts were loaded from: they aren't part of the model."""
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    if not isinstance(value, dict):
        return value
    dropped = ("_name_or_path", "name_or_path")
    return {key: _without_paths(each) for key, each in value.items() if key not in dropped}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
