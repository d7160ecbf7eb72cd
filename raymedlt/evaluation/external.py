"""Scores by other people's models, from local folders: BERTScore of any encoder, CheXbert's labels, RadEval's metrics.

No weights are downloaded. Without them a line says so, never a zero: see `absent`. RadGraph's F1 is one of
RadEval's (EMNLP 2025 demos; `pip install radeval`; on import it asks nltk for its `punkt_tab`). COMET's weights are a
pickle that only its own package can read, which asks for another transformers than this one: the table `generations`
holds what it scores.

Shape suffixes: N texts, B texts computed together, T tokens, D width.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from raymedlt.errors import InputError, MissingDependencyError
from raymedlt.evaluation.config import RadEvalMetric, ScorersConfig
from raymedlt.loading import LOADING, LOCAL

Floats = npt.NDArray[np.float64]
_BATCH = 32

CHEXBERT_WEIGHTS = "chexbert.pth"
CHEXBERT_CLASSES = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding",
)  # fmt: skip
RADEVAL_METRICS: tuple[str, ...] = get_args(RadEvalMetric)
_POSITIVE, _UNCERTAIN = 1, 3  # of a head's classes blank, positive, negative, uncertain


def absent(scorers: ScorersConfig) -> list[str]:
    """A line for each score that nothing was given for."""
    lines = []
    if scorers.bertscore is None:
        lines.append("BERTScore: not computed (scoring.bertscore names no folder of an encoder)")
    if scorers.chexbert is None:
        lines.append(f"CheXbert F1: not computed (scoring.chexbert names no folder with {CHEXBERT_WEIGHTS})")
    if not any("radgraph" in name for name in scorers.radeval):
        lines.append("RadGraph F1: not computed (scoring.radeval does not name radgraph)")
    return lines


def radeval(
    completions: Sequence[str], references: Sequence[str], metrics: Sequence[str], folder: str | None = None
) -> dict[str, Floats]:
    """RadEval's metrics of each report, each [N], named "radeval_" and RadEval's own name.

    Args:
        metrics: of RADEVAL_METRICS.
        folder: where its weights lie; None: where huggingface_hub keeps them.

    Raises:
        MissingDependencyError: RadEval, or a package that one of the metrics needs, is not installed.
        InputError: unknown metrics, weights that aren't there, or what is not one value for each report.
    """
    unknown = [name for name in metrics if name not in RADEVAL_METRICS]
    if unknown:
        raise InputError(f"scoring.radeval: '{unknown[0]}'", f"some of {', '.join(RADEVAL_METRICS)}")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is the job's
            from radeval import RadEval

            evaluator = RadEval(metrics=list(metrics), per_sample=True, show_progress=False, cache_dir=folder)
            found = evaluator(refs=list(references), hyps=list(completions))
    except ImportError as error:
        raise MissingDependencyError(
            f"scoring.radeval: the package '{error.name}' is not installed", "RadEval and what its metrics need",
            "pip install radeval, or leave scoring.radeval out",
        ) from error  # fmt: skip
    except Exception as error:  # whatever its models raise; a message might quote a report
        raise InputError(
            f"scoring.radeval: {', '.join(metrics)} ended with {type(error).__name__}",
            "weights in scoring.radeval_folder or in huggingface_hub's cache; nothing is downloaded for them",
            "try these metrics with RadEval alone, or leave them out",
        ) from None
    odd = [name for name, values in found.items() if not isinstance(values, list) or len(values) != len(completions)]
    if odd:
        raise InputError(f"scoring.radeval: {odd[0]} is not one value for each of {len(completions)} reports")
    return {f"radeval_{name}": np.asarray(values, np.float64) for name, values in found.items()}


def bertscore(completions: Sequence[str], references: Sequence[str], folder: str, *, device: str = "cpu") -> Floats:
    """BERTScore F1 of each report, [N] (Zhang et al., ICLR 2020): greedy matching of tokens by cosine, without idf
    weights and without rescaling, embeddings of the encoder's last layer.

    Start and end tokens can be matched but have no weight, as in the authors' code. NaN where a text has no token.

    Args:
        folder: of a transformers encoder with its tokenizer and safetensors weights.

    Raises:
        InputError: no such encoder in the folder, or different numbers of texts.
    """
    if len(completions) != len(references):
        raise InputError(f"{len(completions)} reports and {len(references)} references", "one reference for each")
    tokenizer, model = _encoder(folder, "scoring.bertscore")
    model.to(device)
    distinct = sorted({*completions, *references}, key=lambda text: (len(text), text))
    embedded: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for start in range(0, len(distinct), _BATCH):
        texts = distinct[start : start + _BATCH]
        embedded |= zip(texts, _embedded(tokenizer, model, texts, device), strict=True)
    pairs = zip(completions, references, strict=True)
    return np.asarray([_greedy_f1(*embedded[one], *embedded[other]) for one, other in pairs], np.float64)


def _embedded(tokenizer: Any, model: Any, texts: Sequence[str], device: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each text unit vectors [T, D] and weights [T]."""
    batch = tokenizer(
        list(texts), padding=True, truncation=True, max_length=_longest(tokenizer, model),
        return_special_tokens_mask=True, return_tensors="pt",
    )  # fmt: skip
    special_BT = batch.pop("special_tokens_mask").bool()
    with torch.inference_mode():
        hidden_BTD = model(**batch.to(device)).last_hidden_state.float().cpu()
    unit_BTD = torch.nn.functional.normalize(hidden_BTD, dim=-1)
    there_BT = batch["attention_mask"].bool().cpu()
    return [(unit_BTD[b][there_BT[b]], (~special_BT[b])[there_BT[b]].float()) for b in range(len(texts))]


def _longest(tokenizer: Any, model: Any) -> int:
    return int(min(tokenizer.model_max_length, model.config.max_position_embeddings))


def _greedy_f1(one_TD: torch.Tensor, w_one: torch.Tensor, other_TD: torch.Tensor, w_other: torch.Tensor) -> float:
    if not w_one.sum() or not w_other.sum():
        return float("nan")
    cosine = one_TD @ other_TD.T
    precision = float((cosine.max(1).values * w_one).sum() / w_one.sum())
    recall = float((cosine.max(0).values * w_other).sum() / w_other.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def chexbert(texts: Sequence[str], folder: str, *, device: str = "cpu") -> npt.NDArray[np.bool_]:
    """CHEXBERT_CLASSES that each text claims, bool [N, 14]; positive and uncertain both count, as is usual.

    Args:
        folder: with the authors' chexbert.pth beside config.json and tokenizer of bert-base-uncased. The file is a
            pickle: only tensors are read from it (`weights_only`).

    Raises:
        InputError: a file is missing, or the weights are of another network.
    """
    from transformers import AutoConfig, AutoModel

    path = Path(folder) / CHEXBERT_WEIGHTS
    if not path.is_file():
        raise InputError(
            f"scoring.chexbert: no {CHEXBERT_WEIGHTS} in '{folder}'",
            "the authors' weights beside config.json and tokenizer of bert-base-uncased",
            "get them from the CheXbert project, or leave scoring.chexbert out",
        )
    tokenizer = _tokenizer(folder, "scoring.chexbert")
    bert = AutoModel.from_config(AutoConfig.from_pretrained(folder, **LOCAL))
    heads = torch.nn.ModuleList([torch.nn.Linear(bert.config.hidden_size, 4) for _ in CHEXBERT_CLASSES[:-1]])
    heads.append(torch.nn.Linear(bert.config.hidden_size, 2))  # "No Finding" is there or not
    network = torch.nn.ModuleDict({"bert": bert, "linear_heads": heads})
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # whose message may quote what the file wanted to run
        raise InputError(
            f"scoring.chexbert: {CHEXBERT_WEIGHTS} in '{folder}' holds more than tensors, or is damaged",
            "the authors' weights: nothing else in a pickle is ever loaded",
            "get them from the CheXbert project again, or leave scoring.chexbert out",
        ) from None
    state = {name.removeprefix("module."): value for name, value in stored["model_state_dict"].items()}
    state.pop("bert.embeddings.position_ids", None)  # older transformers stored a constant
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"scoring.chexbert: {CHEXBERT_WEIGHTS} in '{folder}' has the weights of another network",
            "BERT with 14 heads, and the config.json that belongs to it",
        ) from error
    network.to(device).eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), _BATCH):
            batch = tokenizer(
                [" ".join(text.split()) for text in texts[start : start + _BATCH]],
                padding=True, truncation=True, max_length=_longest(tokenizer, bert), return_tensors="pt",
            ).to(device)  # fmt: skip
            first_BD = bert(**batch).last_hidden_state[:, 0]
            chosen = torch.stack([head(first_BD).argmax(1) for head in heads], 1)
            found.append(((chosen == _POSITIVE) | (chosen == _UNCERTAIN)).cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, len(CHEXBERT_CLASSES)), np.bool_)


def _tokenizer(folder: str, key: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, **LOCAL)
    except (OSError, ValueError) as error:
        raise _no_encoder(folder, key, error) from error


def _encoder(folder: str, key: str) -> tuple[Any, Any]:
    from transformers import AutoModel

    tokenizer = _tokenizer(folder, key)
    try:
        with LOADING:
            model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **LOCAL)
    except (OSError, ValueError) as error:
        raise _no_encoder(folder, key, error) from error
    return tokenizer, model.eval()


def _no_encoder(folder: str, key: str, error: Exception) -> InputError:
    return InputError(
        f"{key}: no encoder in '{folder}' ({type(error).__name__})",
        "a local folder with config.json, tokenizer and safetensors weights",
        f"check {key}; nothing is downloaded for it",
    )
