"""From drawn images to judged ones, shard by shard, and the search for repeats over all of them. No Ray in here.

gate/                          the gate (see gate.py)
_work/judged/<shard>.parquet   row_id, verdict, target and its probability, fingerprint
images/<shard>.parquet         IMAGES: what was drawn, and whether it is accepted
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raymedlt.cpus import use_threads
from raymedlt.errors import InputError
from raymedlt.images.arranging import Data
from raymedlt.images.examples import Examples
from raymedlt.ledger import Ledger, LedgerHandle
from raymedlt.machine import Settings, driver_device
from raymedlt.schema import SYNTHETIC_IMAGES, TEST, TRAIN, VALIDATION
from raymedlt.shards import ShardFunction
from raymedlt.storage import Storage, below
from raymedlt.synthesis.agreement import NOT_SHOWN
from raymedlt.synthesis.config import SynthesizeConfig
from raymedlt.synthesis.gate import REPEAT, Gate, Verdict
from raymedlt.synthesis.gate_folder import CLASSIFIER_ABOUT, classifier_files
from raymedlt.synthesis.teaching import entries_of

FIT_GATE, JUDGE, ACCEPT = "gate", "judge", "accept"
GATE = "gate"


def fit_gate(config: SynthesizeConfig, data: Data, machine: Settings, classifier: str, ledger: Ledger) -> None:
    """Fit the gate on real training and validation images and save it.

    Raises:
        InputError: too few validation images, or a classifier that learnt other classes.
    """
    if ledger.done(FIT_GATE, "gate") is not None:
        return
    use_threads(machine.threads)
    examples = data.load(ledger.storage)
    check_classifier(classifier, examples)
    train, held_out = examples.rows(TRAIN), examples.rows(VALIDATION)
    place = _places(classifier, examples.classes)
    gate = Gate.fit(
        classifier, examples.pixels.take(train), examples.pixels.take(held_out),
        # a class of the classifier that these images' labels don't speak of is unknown in all of them
        np.where(place >= 0, examples.labels_NC[held_out][:, place], 0.0),
        np.where(place >= 0, examples.known_NC[held_out][:, place], False),
        settings=config.gate, seed=config.seed, device=driver_device(machine),
    )  # fmt: skip
    gate.save(below(config.output, GATE))
    ledger.commit(FIT_GATE, "gate", entries_of(ledger.storage, GATE), {"fitted": gate.about})


def check_classifier(folder: str, examples: Examples) -> None:
    """Refuse a classifier that was trained on images which are held out here.

    Raises:
        InputError: such a classifier, or a folder without the tables of a finished run.
    """
    storage = Storage.of(folder)
    held_out = set(examples.image_ids[examples.splits != TRAIN].tolist())
    scored: set[str] = set()
    for split in (VALIDATION, TEST):
        name = f"predictions/{split}.parquet"
        if not storage.exists(name):
            raise InputError(
                f"no {name} in '{storage.uri}'", "the folder of a finished run of jobs/classify.py",
                "check --classifier.path",
            )  # fmt: skip
        scored |= set(storage.read_table(name, ["image_id"])["image_id"].to_pylist())
    leaked = len(held_out - scored)
    if leaked:
        raise InputError(
            f"{leaked} of {len(held_out)} validation and test images that the classifier may have been trained on",
            "a classifier with the same splits: its run has the same images, labels, split section and seed",
            "leave --classifier.path out to have one trained, or give its --seed and --split.*",
        )


def _places(folder: str, classes: Sequence[str]) -> np.ndarray:
    """For each class of the classifier its number among `classes`; -1 for one that they lack."""
    own = json.loads(classifier_files(folder)[CLASSIFIER_ABOUT])["classes"]
    missing = set(classes) - set(own)
    if missing:
        raise InputError(
            f"a classifier that does not know {len(missing)} of {len(classes)} classes, '{min(missing)}' among them",
            "one trained on the same label table",
            "leave --classifier.path out to have one trained, or give --labels.classes",
        )
    return np.array([classes.index(name) if name in classes else -1 for name in own])


@dataclass(frozen=True)
class MakeJudge:
    """Loads the gate once per process. Small and picklable."""

    handle: LedgerHandle
    output: str
    machine: Settings
    threads: int

    def __call__(self) -> ShardFunction:
        use_threads(self.threads)
        return Judge(self, Gate.load(below(self.output, GATE), self.machine.device))


class Judge:
    """Judges shards."""

    def __init__(self, made: MakeJudge, gate: Gate) -> None:
        self.handle, self.threads, self.gate = made.handle, made.threads, gate

    def __call__(self, shard: str) -> dict[str, Any]:
        """Judge the images of a shard, each for itself, and commit; its summary."""
        use_threads(self.threads)
        storage = self.handle.storage
        plan = storage.read_table(f"plan/{shard}.parquet", ["row_id", "label_set", "target"])
        drawn = storage.read_table(f"_work/drawn/{shard}.parquet", ["row_id", "image", "broken"])
        found = self.gate.judge(
            [cell["bytes"] for cell in drawn["image"].to_pylist()],
            plan["label_set"].to_pylist(), plan["target"].to_pylist(),
        )  # fmt: skip
        rows = [
            {
                "row_id": row_id,
                "accepted": verdict.accepted and not broken,
                "reasons": list(dict.fromkeys([*([broken] if broken else []), *verdict.reasons])),
                "scores": _scores(verdict),
                "nearest": verdict.nearest,
                "target": target,
                "probability": verdict.scores.get("target", math.nan),
                "fingerprint": vector.tolist(),
            }
            for row_id, broken, target, verdict, vector in zip(
                drawn["row_id"].to_pylist(),
                drawn["broken"].to_pylist(),
                plan["target"].to_pylist(),
                found.verdicts,
                found.vectors_BD,
                strict=True,
            )
        ]
        width = found.vectors_BD.shape[1]
        schema = pa.schema(
            [
                *(SYNTHETIC_IMAGES.field(name) for name in ("row_id", "accepted", "reasons", "scores")),
                pa.field("nearest", pa.int64()),  # which training image; stays here, since `images` may be given away
                pa.field("target", pa.string()),
                pa.field("probability", pa.float64()),
                pa.field("fingerprint", pa.list_(pa.float32(), width)),
            ]
        )
        entry = storage.write_table(_judged(shard), pa.Table.from_pylist(rows, schema=schema))
        summary = {"rows": len(rows), "accepted": sum(row["accepted"] for row in rows)}
        self.handle.commit(JUDGE, shard, [entry], summary)
        return summary


def accept(shards: Sequence[str], gate: Gate, ledger: Ledger) -> dict[str, Any]:
    """Judge the set as a whole, and write the table `images`; counts of what was accepted and refused.

    Thresholds follow what was drawn (`Gate.for_drawn`), then repeats over all shards are looked for. Holds the
    fingerprints of all images, 512 bytes each at their default length, and the images of one shard.
    """
    known = ledger.done(ACCEPT, "images")
    if known is not None:
        return known
    storage, fields = ledger.storage, ["accepted", "fingerprint", "target", "probability"]
    judged = [storage.read_table(_judged(shard), fields) for shard in shards]
    targets = [name for table in judged for name in table["target"].to_pylist()]
    probabilities = np.concatenate([table["probability"].to_numpy() for table in judged])
    stricter, priors = gate.for_drawn(targets, probabilities)
    unlikely = stricter.agreement.below(targets, probabilities)
    accepted = np.concatenate([table["accepted"].to_numpy() for table in judged]) & ~unlikely
    vectors = np.concatenate(
        [table["fingerprint"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1) for table in judged]
    )
    del judged
    again = gate.are_repeats(vectors, accepted)
    entries, counts, start = [], Counter[str](), 0
    for shard in shards:
        table = storage.read_table(_judged(shard), ["reasons", "scores"])
        drawn = storage.read_table(f"_work/drawn/{shard}.parquet", ["row_id", "image", "sha256"])
        own = slice(start, start + table.num_rows)
        start = own.stop
        reasons = [
            [REPEAT] if repeat else list(dict.fromkeys([*told, *([f"{NOT_SHOWN}: {name}"] if low else [])]))
            for told, name, low, repeat in zip(
                table["reasons"].to_pylist(), targets[own], unlikely[own].tolist(), again[own].tolist(), strict=True
            )
        ]
        columns = {
            **{name: drawn[name] for name in drawn.column_names},
            "accepted": pa.array(accepted[own] & ~again[own]),
            "reasons": pa.array(reasons, pa.list_(pa.string())),
            "scores": table["scores"],
            "synthetic": pa.array([True] * table.num_rows, pa.bool_()),
        }
        images = pa.table({name: columns[name] for name in SYNTHETIC_IMAGES.names}).cast(SYNTHETIC_IMAGES)
        entries.append(storage.write_table(f"images/{shard}.parquet", images))
        counts.update(reason.split(":")[0] for each in reasons for reason in each)
    summary = {
        "drawn": len(accepted), "accepted": int((accepted & ~again).sum()), "reasons": dict(sorted(counts.items())),
        "priors": priors, "agreement": stricter.agreement.to_json(),
    }  # fmt: skip
    ledger.commit(ACCEPT, "images", entries, summary)
    return summary


def _judged(shard: str) -> str:
    return f"_work/judged/{shard}.parquet"


def _scores(verdict: Verdict) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in sorted(verdict.scores.items())]
