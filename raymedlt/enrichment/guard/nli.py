"""A second guard that reads: a model for natural language inference, each sentence of a report beside each addition.

Premise is a sentence of findings or impression, hypothesis the addition; the largest probability of "contradiction"
over the report's sentences decides. The text that the model sees is the sentence key as written ("Heart size is
normal."), so that a probability follows from two keys and the model.

As in the sentence encoder, the bits of a probability depend on its pair alone: float32, one thread, pairs of one batch
have exactly the same number of tokens (nothing is padded), and linear layers see blocks of a fixed number of rows. So
batches, workers and what was asked before change nothing. This module knows nothing of Ray.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from raymedlt.cpus import use_threads
from raymedlt.embedding.encoder import fix_row_blocks
from raymedlt.enrichment.text import finished
from raymedlt.errors import ConfigError
from raymedlt.loading import LOADING

CONTRADICTION = "contradiction"
LABELS = frozenset({CONTRADICTION, "entailment", "neutral"})
REMEMBERED = 1_000_000  # pairs whose probability is kept, about 200 MB
_LONGEST = 512  # tokens of a pair

Pair = tuple[str, str]  # sentence keys: of the report, of the addition


class Reader(Protocol):
    """What a writer asks: how likely an addition contradicts any of a report's sentences, in [0, 1]."""

    def probability(self, report_keys: Sequence[str], donor_key: str) -> float:
        """Of sentence keys; 0.0 for a report without a sentence."""
        ...


def contradiction_label(folder: str) -> int:
    """Number of the label "contradiction" in the model's config.json; reads nothing else.

    Raises:
        ConfigError: no such folder, no config.json in it, no safetensors, or other labels than contradiction,
            entailment and neutral (in any case).
    """
    place = Path(folder)
    fix = "give --guard.nli the folder of a model for natural language inference, as save_pretrained writes it"
    if not (place / "config.json").is_file():
        raise ConfigError("guard.nli names no folder with a config.json", "a local model folder", fix)
    if not list(place.glob("*.safetensors")):
        raise ConfigError("the folder of guard.nli holds no safetensors", "weights as safetensors", fix)
    try:
        names = json.loads((place / "config.json").read_text(encoding="utf-8")).get("id2label") or {}
        labels = {str(name).strip().lower(): int(number) for number, name in names.items()}
    except (ValueError, AttributeError):
        raise ConfigError("the config.json of guard.nli can't be read", "JSON with id2label", fix) from None
    if set(labels) != LABELS:
        raise ConfigError(
            f"the model of guard.nli has the labels {sorted(labels)}",
            f"{', '.join(sorted(LABELS))}, in any case, in id2label of its config.json",
            "choose a three-way model, or name its labels in config.json",
        )
    return labels[CONTRADICTION]


class NliModel:
    """A loaded model.

    Args:
        folder: a transformers sequence classification model with safetensors and tokenizer; nothing is downloaded and
            no code of the folder is run.
        batch_pairs: at most so many pairs are computed together.

    Raises:
        ConfigError: it can't be loaded, or its labels are others (`contradiction_label`).
    """

    def __init__(self, folder: str, batch_pairs: int = 64) -> None:
        self._label = contradiction_label(folder)
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._torch, self.batch_pairs = torch, batch_pairs
        self._lock = threading.Lock()  # a tokenizer is not made for several threads
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            with LOADING:
                self._tokenizer = AutoTokenizer.from_pretrained(folder, **options)
                self._model = AutoModelForSequenceClassification.from_pretrained(
                    folder, use_safetensors=True, dtype=torch.float32, **options
                )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the model of guard.nli can't be loaded ({type(error).__name__})",
                "a folder with config.json, tokenizer and safetensors of a sequence classification model",
                "save model and tokenizer there with save_pretrained",
            ) from error
        fix_row_blocks(self._model, "float32")
        self._model.eval()
        self._longest = min(_LONGEST, int(self._tokenizer.model_max_length))

    def contradiction(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
        """Probability of contradiction for each (premise, hypothesis), float32 [N]; O(N) forward passes' work.

        A pair that is too long for the model loses its last tokens.
        """
        probabilities_N = np.zeros(len(pairs), np.float32)
        if not pairs:
            return probabilities_N
        premises, hypotheses = ([pair[place] for pair in pairs] for place in (0, 1))
        with self._lock:
            tokens = dict(self._tokenizer(premises, hypotheses, truncation=True, max_length=self._longest))
        lengths = [len(ids) for ids in tokens["input_ids"]]
        order = sorted(range(len(pairs)), key=lambda n: (lengths[n], pairs[n]))
        use_threads(1)
        for _, same in itertools.groupby(order, key=lambda n: lengths[n]):
            group = list(same)
            for start in range(0, len(group), self.batch_pairs):
                rows = group[start : start + self.batch_pairs]
                probabilities_N[rows] = self._forward({name: [tokens[name][n] for n in rows] for name in tokens})
        return probabilities_N

    def _forward(self, tokens: dict[str, list[list[int]]]) -> npt.NDArray[np.float32]:
        torch = self._torch
        with torch.inference_mode():
            inputs = {name: torch.tensor(ids_BT, dtype=torch.long) for name, ids_BT in tokens.items()}
            logits_BL = self._model(**inputs).logits.float()
            result: npt.NDArray[np.float32] = logits_BL.softmax(-1)[:, self._label].numpy()
        return result


class NliGuard:
    """Remembers what the model said of (report sentence, addition)."""

    def __init__(self, model: NliModel) -> None:
        self.model = model
        self._known: dict[Pair, float] = {}

    def compute(self, pairs: Iterable[Pair]) -> None:
        """Ask the model about all `pairs` that it wasn't asked about, in large batches."""
        unknown = sorted({pair for pair in pairs if pair not in self._known})
        found = self.model.contradiction([(finished(one), finished(other)) for one, other in unknown])
        if len(self._known) + len(unknown) > REMEMBERED:
            self._known = {}
        self._known.update(zip(unknown, map(float, found), strict=True))

    def probability(self, report_keys: Sequence[str], donor_key: str) -> float:
        """Largest probability that `donor_key` contradicts a sentence of the report; 0 for a report without any."""
        pairs = [(key, donor_key) for key in report_keys]
        found = [self._known.get(pair) for pair in pairs]
        if None in found:
            self.compute(pairs)
            found = [self._known.get(pair) for pair in pairs]
        # Another thread may have emptied the memory in between.
        return max((self._alone(pair) if p is None else p for pair, p in zip(pairs, found, strict=True)), default=0.0)

    def _alone(self, pair: Pair) -> float:
        return float(self.model.contradiction([(finished(pair[0]), finished(pair[1]))])[0])


class Wishes:
    """Stands in for the guard in a first pass: notes what will be asked, and lets everything pass."""

    def __init__(self) -> None:
        self.pairs: set[Pair] = set()

    def probability(self, report_keys: Sequence[str], donor_key: str) -> float:
        self.pairs.update((key, donor_key) for key in report_keys)
        return 0.0
