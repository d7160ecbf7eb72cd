"""How much a cluster weighs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raymedlt.alignment.severity import cluster_weights
from raymedlt.errors import InputError


class Sentences:
    """Each sentence is the medoid of a cluster."""

    def __init__(self, *keys: str) -> None:
        self.keys = list(keys)

    @property
    def medoids(self) -> np.ndarray:
        return np.arange(len(self.keys))


def test_the_highest_of_what_a_medoid_claims() -> None:
    model = Sentences(
        "small left pneumothorax",
        "left pleural effusion",
        "right basilar atelectasis",
        "calcified granuloma",
        "no pneumothorax",
        "the heart is normal",
        "scoliosis and a large right pneumothorax",
    )
    assert cluster_weights(model) == dict(enumerate([1.0, 0.5, 0.25, 0.0, 0.0, 0.0, 1.0]))


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    table = tmp_path / "severity.csv"
    roots = "chest_abnormality,benign\nother_body_part_abnormality,benign\n"
    table.write_text(f"finding,severity\n{roots}lung_abnormality,actionable\nnodule,urgent\n")
    model = Sentences("a nodule is seen", "calcified granuloma", "atelectasis", "pleural effusion")
    assert cluster_weights(model, table) == {0: 1.0, 1: 1.0, 2: 0.5, 3: 0.0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("nodule,urgent\n", "says nothing of chest_abnormality"),
        ("kite,urgent\n", "names the finding 'kite'. Expected: an id of reports/rules/findings.csv"),
        ("nodule,awful\n", "gives 'nodule' the severity 'awful'. Expected: one of urgent, actionable"),
    ],
)
def test_what_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"finding,severity\n{rows}")
    with pytest.raises(InputError, match=message):
        cluster_weights(Sentences("nodule"), table)
    with pytest.raises(InputError, match="no file"):
        cluster_weights(Sentences("nodule"), tmp_path / "nowhere.csv")
