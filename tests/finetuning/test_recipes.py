"""The recipes in configs/: read by the job, and built as shapes. The models' own sizes are written out here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_build import QWEN_3B

from raymedlt.finetuning.config import FinetuneConfig
from raymedlt.finetuning.running import describe, run
from raymedlt.job import main

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
QWEN_1_5B = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 1536, "intermediate_size": 8960,
    "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
    "max_position_embeddings": 32768, "tie_word_embeddings": True,
}  # fmt: skip


def folder(path: Path, sizes: dict) -> str:
    """A model's folder as --describe looks at it: its sizes, and that its weights are safetensors."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(sizes))
    (path / "model.safetensors").write_bytes(b"")
    return str(path)


@pytest.mark.parametrize(
    ("recipe", "key", "sizes", "told"),
    [
        ("qwen2_5_vl_3b", "model.path", QWEN_3B, ("DeepSpeed ZeRO-3", "1 to 4 replicas", "lora", "3,758,")),
        (
            "semenrich_composed",
            "model.language",
            QWEN_1_5B,
            ("DeepSpeed ZeRO-2", "vit_base_patch16_224, queries", "2,"),
        ),
    ],
)
def test_a_recipe_is_described(recipe: str, key: str, sizes: dict, told: tuple[str, ...], tmp_path: Path, capsys):
    words = ["--config", str(CONFIGS / f"{recipe}.yaml"), f"--{key}", folder(tmp_path / "model", sizes)]
    words += ["--describe=true", "--output", str(tmp_path / "run")]
    assert main(FinetuneConfig, "python jobs/finetune.py", describe, run, words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    for each in told:
        assert each in said
    assert "batch" not in said or "144" in said


def test_weights_that_are_pickled_are_refused(tmp_path: Path, capsys):
    path = folder(tmp_path / "model", QWEN_3B)
    Path(path, "model.safetensors").rename(Path(path, "pytorch_model.bin"))
    words = ["--model.path", path, "--describe=true", "--output", str(tmp_path / "run")]
    assert main(FinetuneConfig, "python jobs/finetune.py", describe, run, words) == 2
    assert "only pickled weights (pytorch_model.bin)" in capsys.readouterr().err
