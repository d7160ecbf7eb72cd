"""The finished model as a folder that plain transformers, and `raymedlt.finetuning.load`, read.

    config.json, generation_config.json, *.safetensors     the model, LoRA merged
    tokenizer and processor files
    raymedlt.json                                          what it was asked, and how it answers; written last

A Hugging Face model is read by `AutoModelForImageTextToText.from_pretrained`; the composed one too, once
`raymedlt.finetuning.model` is imported, which registers it. Nothing is pickled.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from raymedlt.errors import InputError
from raymedlt.finetuning.build import Kind, load_given
from raymedlt.finetuning.config import TextFormat
from raymedlt.finetuning.lora import merge
from raymedlt.finetuning.model import ComposedModel
from raymedlt.finetuning.processing import Processing
from raymedlt.storage import Storage

FILE = "raymedlt.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """How the model is asked, and how it answers."""

    prompt: str
    text_format: TextFormat
    """What a report looks like: see TextConfig.format."""
    image_size: int
    """Pixels a side of the grey squares that it sees."""
    max_tokens: int
    """A report ends here at the latest."""
    kind: Kind = "composed"
    format: int = FORMAT


class Exported(NamedTuple):
    """A model that is ready to write: in evaluation mode."""

    model: Any
    processing: Processing
    settings: ExportSettings


def export(model: Any, processing: Processing, folder: str, *, text_format: TextFormat, max_tokens: int) -> None:
    """Write the model to a folder or URI.

    A LoRA is merged into `model` itself, which can't learn on from there.

    Memory: one file of weights (at most 2 GB) beside the model where the folder is on an object store.
    """
    merge(model)
    kind: Kind = "composed" if isinstance(model, ComposedModel) else "hub"
    settings = ExportSettings(
        prompt=processing.prompt, text_format=text_format, image_size=processing.image_size, max_tokens=max_tokens,
        kind=kind,
    )  # fmt: skip
    storage = Storage.of(folder)
    with tempfile.TemporaryDirectory() as name:
        local = Path(name)
        model.save_pretrained(str(local), max_shard_size="2GB")
        processing.save(local)
        for file in sorted(path for path in local.rglob("*") if path.is_file()):
            data = file.read_bytes()
            if file.suffix == ".json":
                data = _json(_without_paths(json.loads(data)))
            storage.write_bytes(file.relative_to(local).as_posix(), data)
            file.unlink()
    storage.write_bytes(FILE, _json(asdict(settings)))


def read_settings(folder: str) -> ExportSettings:
    """raymedlt.json of an exported folder. Raises InputError: none there, or of another version."""
    storage = Storage.of(folder)
    try:
        values = json.loads(storage.read_bytes(FILE))
    except FileNotFoundError:
        raise InputError(f"no {FILE} in '{storage.uri}'", "the folder of a finished export") from None
    if values.get("format") != FORMAT:
        raise InputError(f"an export of format {values.get('format')}", f"format {FORMAT}", "export the model again")
    return ExportSettings(**values)


def load_export(folder: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Exported:
    """The model of an exported folder, on `device`.

    Raises:
        InputError: no export there, or a damaged one.
    """
    settings = read_settings(folder)
    model, processing, _ = load_given(
        folder, "the model's folder", image_size=settings.image_size, prompt=settings.prompt, dtype=dtype
    )
    return Exported(model.to(device).eval(), processing, settings)


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
