"""A small cohort of the phantom as studies: real texts, images that are only numbered."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
import torch

from raymedlt.finetuning.studies import IMAGE_REPORTS, Studies, Variants, count_tokens, in_splits, join, phantom_reports
from raymedlt.images.config import DataConfig, PhantomConfig
from raymedlt.images.examples import Bytes, Examples, PixelShards

SIZE = 32
DATA = DataConfig(phantom=PhantomConfig(images=120, test_images=20, test_positives=0, classes=12))


def examples_for(reports: pa.Table, splits: list[str] | None = None) -> Examples:
    """An image for every report, in the order of the image ids; its pixels hold its row number."""
    table = reports.sort_by("image_id")
    count = table.num_rows
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, SIZE, SIZE)).copy()
    names = {name: np.array(table[name].to_pylist(), object) for name in ("image_id", "patient_id", "split")}
    return Examples(
        image_ids=names["image_id"],
        patient_ids=names["patient_id"],
        splits=names["split"] if splits is None else np.array(splits, object),
        sources=np.array(["world"] * count, object),
        labels_NC=np.ones((count, 1), np.float32),
        known_NC=np.ones((count, 1), bool),
        synthetic=np.zeros(count, bool),
        pixels=PixelShards.of([pixels[: count // 2], pixels[count // 2 :]]),
        classes=("Report",),
    )


@lru_cache(maxsize=1)
def cohort_reports() -> pa.Table:
    """The phantom's reports."""
    return phantom_reports(DATA)


def words(text: str) -> int:
    """Tokens of a text where every word is one."""
    return len(text.split())


def world(variants: Variants | None = None) -> tuple[Studies, Examples]:
    """Studies of the cohort, tokens counted, and their images."""
    reports = cohort_reports()
    examples = examples_for(reports)
    joined = join(in_splits(reports, examples), examples, variants or {}, "findings", "phantom")
    return count_tokens(joined.studies, words, 512, "phantom").studies, examples


def made(count: int, **columns: list[object]) -> pa.Table:
    """`count` reports r00, r01, ... of as many patients, with texts; columns replace the made ones."""
    ids = [f"r{number:02d}" for number in range(count)]
    own: dict[str, list[object]] = {
        "report_id": list(ids), "study_id": list(ids), "patient_id": [f"p{name}" for name in ids],
        "split": ["train"] * count, "findings": [f"Heart {name}." for name in ids],
        "impression": [f"Normal {name}." for name in ids], "indication": [""] * count, "views": [[]] * count,
        "image_ids": [[name] for name in ids], "labels": [[]] * count, "language": ["en"] * count,
        "image_id": list(ids), "complete_findings": [""] * count,
    }  # fmt: skip
    return pa.table({**own, **columns}, schema=IMAGE_REPORTS)


def collate(images_MSS: Bytes, texts: list[str]) -> dict[str, torch.Tensor]:
    """A batch with bytes as tokens: 1 begins, then the prompt 2, then the text, 3 ends; 0 pads."""
    rows = [[1, 2, *text.encode(), 3] for text in texts]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = tokens.masked_fill(tokens == 0, -100)
    labels[:, :2] = -100
    return {
        "input_ids": tokens,
        "attention_mask": (tokens != 0).long(),
        "pixel_values": torch.from_numpy(images_MSS.copy()).float()[:, None] / 255,
        "labels": labels,
    }


def text_of(labels: torch.Tensor) -> str:
    """The target that the labels of one study teach."""
    return bytes(labels[labels >= 0].tolist()[:-1]).decode()
