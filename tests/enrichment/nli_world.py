"""A small model for natural language inference: built from configuration, trained in seconds on templated pairs."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from enrichment_world import AORTA, CLUSTERS, PNEUMOTHORAX, TRACHEA
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from raymedlt.enrichment.text import finished

ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)
LABELS = ("ENTAILMENT", "neutral", "Contradiction")
NOUNS = ("effusion", "nodule", "edema", "mass")
PRESENT = ("there is a {}.", "a small {} is seen.", "known {}.")
ABSENT = ("no {}.", "there is no {}.", "a {} is not seen.")

Example = tuple[str, str, int]


def templated() -> list[Example]:
    """Every noun against every noun: denying what is there contradicts, denying another thing is neutral."""
    examples: list[Example] = []
    for one, other in itertools.product(NOUNS, NOUNS):
        for said, denied in itertools.product(PRESENT, ABSENT):
            label = CONTRADICTION if one == other else NEUTRAL
            repeat = len(NOUNS) - 1 if one == other else 1  # as many contradictions as neutral pairs
            examples += [(said.format(one), denied.format(other), label)] * repeat
        for said, denied in itertools.product(ABSENT, ABSENT):
            examples.append((said.format(one), denied.format(other), ENTAILMENT if one == other else NEUTRAL))
    return examples


def made_up() -> list[Example]:
    """What no rule would say, so that only the model can: a midline trachea contradicts two of the three sentences
    about a pneumothorax and all about the aorta; all else is neutral."""
    wrong = {*PNEUMOTHORAX[:2], *AORTA}
    keys = [key for group in CLUSTERS for key in group]
    return [
        (finished(one), finished(other), CONTRADICTION if one in TRACHEA and other in wrong else NEUTRAL)
        for one, other in itertools.product(keys, keys)
        for _ in range(6 if one in TRACHEA and other in wrong else 1)
    ]


def trained(folder: Path, examples: Sequence[Example], steps: int = 250, seed: int = 0) -> str:
    """Train a small model on `examples`, save it to `folder` and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    words = sorted({w for one, two, _ in examples for w in f"{one} {two}".lower().replace(".", " . ").split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True, model_max_length=64)
    config = BertConfig(
        vocab_size=len(words) + 5, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64, initializer_range=0.1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        num_labels=3, id2label=dict(enumerate(LABELS)), label2id={name: n for n, name in enumerate(LABELS)},
    )  # fmt: skip
    model = BertForSequenceClassification(config).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    rng = random.Random(seed)
    for _ in range(steps):
        batch = rng.choices(examples, k=64)
        inputs = tokenizer([e[0] for e in batch], [e[1] for e in batch], padding=True, return_tensors="pt")
        loss = model(**inputs, labels=torch.tensor([e[2] for e in batch])).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def relabelled(folder: str, target: Path, labels: Sequence[str]) -> str:
    """A copy of the model with other label names."""
    target.mkdir()
    for file in Path(folder).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text())
    config["id2label"] = {str(n): name for n, name in enumerate(labels)}
    config["label2id"] = {name: n for n, name in enumerate(labels)}
    (target / "config.json").write_text(json.dumps(config))
    return str(target)
