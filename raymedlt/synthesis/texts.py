"""The texts that a generator learns from: the labels of each real image, worded like the plan's prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.images.examples import Examples, Rows
from raymedlt.images.preparing import LABELS_FILE
from raymedlt.storage import Storage
from raymedlt.synthesis.prompts import Described, prompt_of


@dataclass(frozen=True)
class Texts:
    """Of some real images, in the order of the examples."""

    rows: Rows
    """Their row numbers among the examples."""
    label_sets: list[tuple[str, ...]]
    prompts: list[list[str]]
    """Several wordings of each."""


def findings_of(storage: Storage, examples: Examples, rows: Rows) -> pa.ListArray | None:
    """Findings with side and severity of these rows, where the label table knows them (the phantom's does)."""
    if "findings" not in storage.read_rows(LABELS_FILE, 0, 1).column_names:
        return None
    table = storage.read_table(LABELS_FILE, ["image_id", "findings"])
    place = pc.index_in(pa.array(examples.image_ids[rows].tolist()), table["image_id"].combine_chunks())
    return table["findings"].take(place).combine_chunks()


def texts_of(
    examples: Examples,
    rows: Rows,
    findings: pa.ListArray | None,
    *,
    wordings: int,
    seed: int,
    view: str,
    normal: Sequence[str],
) -> Texts:
    """Word the positive, known labels of each of these images.

    Args:
        findings: beside `rows`, as `findings_of` gives them.
        wordings: of each image; a step of the training draws one.
        view: as in the plan's prompts.
        normal: classes that mean that there is no finding.
    """
    shown_NC = (examples.labels_NC[rows] > 0) & examples.known_NC[rows]
    label_sets = [tuple(examples.classes[number] for number in np.flatnonzero(each)) for each in shown_NC]
    prompts = []
    for number, row in enumerate(rows.tolist()):
        cell = {} if findings is None else {each["name"]: each for each in findings[number].as_py() or ()}
        described = [
            Described(name, cell[name]["side"] or "", cell[name]["severity"]) if name in cell else Described(name)
            for name in label_sets[number]
        ]
        image_id = str(examples.image_ids[row])
        prompts.append(
            [
                prompt_of(
                    described, seed=seed, key=(image_id, k), varied=wordings > 1, view=view, normal_classes=normal
                )
                for k in range(wordings)
            ]
        )
    return Texts(rows, label_sets, prompts)
