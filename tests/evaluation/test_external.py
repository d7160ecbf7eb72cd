"""BERTScore with the packaged MiniLM encoder against torchmetrics' own; CheXbert's network with random weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raymedlt.embedding.encoder import packaged_model
from raymedlt.errors import InputError, MissingDependencyError
from raymedlt.evaluation.config import NO_SCORERS, ScorersConfig
from raymedlt.evaluation.external import CHEXBERT_CLASSES, CHEXBERT_WEIGHTS, absent, bertscore, chexbert, radeval

ONE = ["The heart is normal.", "Small left pleural effusion.", "No focal consolidation, effusion or pneumothorax."]
OTHER = ["The heart is enlarged.", "Small left pleural effusion.", "The lungs are clear."]


def test_bertscore_equals_torchmetrics() -> None:
    from torchmetrics.functional.text import bert_score
    from transformers import AutoModel, AutoTokenizer

    folder = str(packaged_model())
    found = bertscore(ONE, OTHER, folder)
    expected = bert_score(
        ONE, OTHER, model=AutoModel.from_pretrained(folder), user_tokenizer=AutoTokenizer.from_pretrained(folder),
        user_forward_fn=lambda model, batch: model(batch["input_ids"], batch["attention_mask"]).last_hidden_state,
        num_layers=None, max_length=64,
    )["f1"]  # fmt: skip
    assert found == pytest.approx(np.asarray(expected), abs=2e-3)
    assert found[1] == pytest.approx(1, abs=1e-6)
    assert found[0] > found[2]


def test_bertscore_does_not_depend_on_the_other_texts_and_has_no_zero_for_no_text() -> None:
    folder = str(packaged_model())
    together = bertscore([*ONE, ""], [*OTHER, "Lungs are clear."], folder)
    assert together[:1] == pytest.approx(bertscore(ONE[:1], OTHER[:1], folder), abs=1e-5)
    assert np.isnan(together[3])


def test_absent_weights_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scoring\.bertscore: no encoder in .*nothing is downloaded"):
        bertscore(ONE, OTHER, str(tmp_path))
    with pytest.raises(InputError, match=r"scoring\.chexbert: no chexbert\.pth"):
        chexbert(ONE, str(tmp_path))
    assert len(absent(NO_SCORERS)) == 3
    assert absent(ScorersConfig(bertscore="folder", chexbert="folder", radeval=("radgraph",))) == []


def write_chexbert(folder: Path, answers: list[int], **changes: torch.Tensor) -> None:
    """A tiny network whose heads answer `answers` whatever the text, stored as the authors store theirs."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    AutoTokenizer.from_pretrained(packaged_model()).save_pretrained(folder)
    config = BertConfig(
        vocab_size=30522, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config.save_pretrained(folder)
    state = {f"module.bert.{name}": value for name, value in BertModel(config).state_dict().items()}
    for number, answer in enumerate(answers):
        size = 4 if number < 13 else 2
        state[f"module.linear_heads.{number}.weight"] = torch.zeros(size, 8)
        state[f"module.linear_heads.{number}.bias"] = torch.nn.functional.one_hot(torch.tensor(answer), size).float()
    torch.save({"model_state_dict": state | changes}, folder / CHEXBERT_WEIGHTS)


def test_chexbert_counts_positive_and_uncertain(tmp_path: Path) -> None:
    write_chexbert(tmp_path, [0, 1, 2, 3] * 3 + [0, 1])
    found = chexbert(["Cardiomegaly.", ""], str(tmp_path))
    assert found.shape == (2, len(CHEXBERT_CLASSES)) == (2, 14)
    assert found[0].tolist() == [False, True, False, True] * 3 + [False, True]
    assert chexbert([], str(tmp_path)).shape == (0, 14)


def test_weights_of_another_network(tmp_path: Path) -> None:
    write_chexbert(tmp_path, [0] * 14, **{"module.linear_heads.0.weight": torch.zeros(4, 9)})
    with pytest.raises(InputError, match="has the weights of another network"):
        chexbert(ONE, str(tmp_path))


def test_radeval_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "radeval", None)  # what `import` finds where there is none
    with pytest.raises(MissingDependencyError, match=r"scoring\.radeval: the package 'radeval' is not installed"):
        radeval(ONE, OTHER, ["rouge"])


def test_metrics_that_send_reports_elsewhere_are_refused() -> None:
    with pytest.raises(InputError, match="'crimson'"):
        radeval(ONE, OTHER, ["rouge", "crimson"])


def test_radeval_gives_a_value_for_each_report(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("radeval", reason="needs the optional package radeval")
    found = radeval(ONE, OTHER, ["rouge", "bleu"])
    assert {"radeval_rougeL", "radeval_bleu"} <= set(found)
    assert found["radeval_rougeL"][1] == pytest.approx(1)
    assert found["radeval_rougeL"][0] == pytest.approx(0.75)  # three of four words
    assert all(values.shape == (3,) for values in found.values())
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="f1chexbert ended with"):
        radeval(ONE, OTHER, ["f1chexbert"], "nowhere")
