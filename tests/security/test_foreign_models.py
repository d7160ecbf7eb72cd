"""Model folders of others: pickled weights and program code in them are never run, whatever is answered at a prompt."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vlms import PROMPT, TEXTS, saved

from raymedlt.embedding.encoder import Encoder, packaged_model
from raymedlt.enrichment.guard.nli import NliModel
from raymedlt.errors import RaymedltError
from raymedlt.evaluation.external import CHEXBERT_WEIGHTS, bertscore, chexbert
from raymedlt.finetuning.build import build
from raymedlt.finetuning.config import ModelConfig
from raymedlt.finetuning.language import given_language, small_language
from raymedlt.images.networks import read_weights

MARK = "RAYMEDLT_TEST_MARK"


class Payload:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, (f"import os; open(os.environ[{MARK!r}], 'w').close()",)


@pytest.fixture(autouse=True)
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that foreign code would leave; somebody sits at the prompt and answers "y" to everything."""
    path = tmp_path / "mark"
    monkeypatch.setenv(MARK, str(path))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 50))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return path


def test_the_payload_works(mark: Path, tmp_path: Path) -> None:
    torch.save(Payload(), tmp_path / "weights.bin")
    torch.load(tmp_path / "weights.bin", weights_only=False)
    assert mark.exists()


def encoder_folder(folder: Path) -> str:
    """The packaged encoder, to be spoilt."""
    shutil.copytree(packaged_model(), folder)
    return str(folder)


def language_folder(folder: Path) -> str:
    """A small language model, to be spoilt."""
    model, tokenizer = small_language(TEXTS, 32, 1, 2)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return str(folder)


def vlm_folder(folder: Path) -> str:
    """A small LLaVA, to be spoilt."""
    return str(saved("llava", folder))


def nli_folder(folder: Path) -> str:
    """The packaged encoder with the labels of inference."""
    encoder_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "contradiction", "1": "entailment", "2": "neutral"}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


LOADERS: dict[str, tuple[Callable[[Path], str], Callable[[str], Any]]] = {
    "embedding.model": (encoder_folder, Encoder),
    "guard.nli": (nli_folder, NliModel),
    "model.language": (language_folder, given_language),
    "model.path": (
        vlm_folder,
        lambda folder: build(ModelConfig(path=folder), image_size=64, prompt=PROMPT, texts=[], seed=0),
    ),
    "scoring.bertscore": (encoder_folder, lambda folder: bertscore(["Clear."], ["Clear."], folder)),
}


@pytest.mark.parametrize("key", LOADERS)
def test_pickled_weights_are_not_opened(key: str, mark: Path, tmp_path: Path) -> None:
    make, load = LOADERS[key]
    folder = Path(make(tmp_path / "model"))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    for name in ("pytorch_model.bin", "model.pt"):
        torch.save({"weight": Payload()}, folder / name)
    with pytest.raises(RaymedltError, match="safetensors"):
        load(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("key", LOADERS)
def test_pickled_weights_beside_safetensors_are_not_opened(key: str, mark: Path, tmp_path: Path) -> None:
    make, load = LOADERS[key]
    folder = make(tmp_path / "model")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl"):
        torch.save({"weight": Payload()}, Path(folder) / name)
    load(folder)
    assert not mark.exists()


CODE = f"import os; open(os.environ[{MARK!r}], 'w').close()\n"
CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification",
           "AutoModelForImageTextToText", "AutoProcessor", "AutoImageProcessor")  # fmt: skip


@pytest.mark.parametrize("known", [True, False], ids=["a type that transformers knows", "a type of its own"])
@pytest.mark.parametrize("key", LOADERS)
def test_program_code_in_a_folder_is_not_run(key: str, known: bool, mark: Path, tmp_path: Path) -> None:
    """transformers asks whether to run it, and a "y" is waiting here: only `trust_remote_code=False` does not ask."""
    make, load = LOADERS[key]
    folder = Path(make(tmp_path / "model"))
    (folder / "own.py").write_text(CODE)
    for file in folder.glob("*.json"):
        if file.name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
            values = json.loads(file.read_text())
            values["auto_map"] = {name: "own.Own" for name in CLASSES} | {"AutoTokenizer": ["own.Own", "own.Own"]}
            if not known and file.name == "config.json":
                values["model_type"] = "own"
            file.write_text(json.dumps(values))
    with contextlib.suppress(RaymedltError, ValueError):
        load(str(folder))  # where transformers has the class itself, the folder's is passed over
    assert not mark.exists()


def test_chexberts_pickle_gives_tensors_only(mark: Path, tmp_path: Path) -> None:
    encoder_folder(tmp_path / "model")
    torch.save({"model_state_dict": {}, "extra": Payload()}, tmp_path / "model" / CHEXBERT_WEIGHTS)
    with pytest.raises(RaymedltError, match="holds more than tensors"):
        chexbert(["Clear."], str(tmp_path / "model"))
    assert not mark.exists()


def test_a_pickle_that_is_called_safetensors_is_not_opened(mark: Path, tmp_path: Path) -> None:
    torch.save(Payload(), tmp_path / "model.safetensors")
    with pytest.raises(RaymedltError, match="a pickled file is never opened"):
        read_weights(str(tmp_path / "model.safetensors"), "model.weights")
    assert zipfile.is_zipfile(tmp_path / "model.safetensors")
    assert not mark.exists()
    assert os.environ[MARK] == str(mark)
