"""Reports written by a finished model: batches of one shape, words the likeliest or drawn by key; shards for a job.

_work/writing/<shard>.parquet      which studies a shard writes for; a shard is so many batches
_work/written/<shard>.parquet      what was written

A report depends on its image, the model, the batch size and, where words are drawn, on the seed and its own key: the
last batch is filled up, so that every batch has one shape. No Ray in here.

Shapes: B rows, S pixels a side, P tokens of the prompt, L tokens in all, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from raymedlt.cpus import use_threads
from raymedlt.errors import ConsistencyError, InputError
from raymedlt.finetuning.processing import Processing
from raymedlt.images.examples import Pixels, pixels_of
from raymedlt.ledger import Ledger, LedgerHandle
from raymedlt.seeds import keyed_seed
from raymedlt.shards import ShardFunction
from raymedlt.storage import Storage, content_hash

PLAN, WRITE = "plan writing", "write"
_PLAN_STAGE, _PLAN_SHARD = "writing", "shards"
BATCHES_PER_SHARD = 8

WRITING = pa.schema([("report_id", pa.string()), ("image_id", pa.string()), ("image_row", pa.int64())])
WRITTEN = pa.schema(
    [
        ("report_id", pa.string()),
        ("image_id", pa.string()),
        ("completion", pa.string()),
        ("tokens", pa.int32()),  # with the end token
        ("finished", pa.bool_()),  # false: it breaks off at the largest length
    ]
)


@dataclass(frozen=True, eq=False)
class Writer:
    """A model with what turns images into its input and its output into text."""

    model: Any
    """With transformers' `generate`; in evaluation mode."""
    processing: Processing
    device: str = "cpu"


@dataclass(frozen=True)
class Writing:
    """How words are chosen."""

    batch: int
    """Images that are computed together."""
    max_tokens: int
    temperature: float = 0.0
    """0: the likeliest word each time."""
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"


class Report(NamedTuple):
    """What was written for an image."""

    text: str
    tokens: int
    finished: bool


def write(writer: Writer, images_NSS: npt.NDArray[np.uint8], keys: Sequence[str], how: Writing) -> list[Report]:
    """A report for each image.

    Args:
        images_NSS: prepared, uint8 of the model's size.
        keys: names of the images: what their draws are keyed by.

    Raises:
        InputError: another number of keys than of images; images that the model's processing refuses.
    """
    if len(keys) != len(images_NSS):
        raise InputError(f"{len(images_NSS)} images and {len(keys)} keys", "one key for each image")
    reports: list[Report] = []
    for start in range(0, len(keys), how.batch):
        rows = [row % len(keys) for row in range(start, start + how.batch)]  # the last batch is filled up
        reports += _batch(writer, images_NSS[rows], [keys[row] for row in rows], how)
    return reports[: len(keys)]


def _batch(writer: Writer, images_BSS: npt.NDArray[np.uint8], keys: Sequence[str], how: Writing) -> list[Report]:
    processing = writer.processing
    inputs = {name: value.to(writer.device) for name, value in processing.batch(images_BSS).items()}
    drawn = [KeyedDraws(keys, how.temperature, how.seed)] if how.temperature > 0 else []
    kind = torch.device(writer.device).type
    with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=how.precision == "bfloat16"):
        tokens_BL = writer.model.generate(
            **inputs, max_new_tokens=how.max_tokens, eos_token_id=list(processing.end_ids),
            pad_token_id=processing.pad_id, logits_processor=drawn, **_PLAIN,
        )  # fmt: skip
    new_BL = tokens_BL[:, processing.prompt_length :].cpu()
    ended_BL = torch.isin(new_BL, torch.tensor(processing.end_ids))
    finished = ended_BL.any(1)
    lengths = torch.where(finished, ended_BL.int().argmax(1) + 1, new_BL.shape[1])
    # Behind the end token stands padding, which need not be a token that decoding leaves out.
    return [
        Report(processing.decode(new_BL[row : row + 1, : int(lengths[row])])[0], int(lengths[row]), bool(finished[row]))
        for row in range(len(new_BL))
    ]


# A model's own generation settings ("repetition_penalty": 1.05 of Qwen2.5-VL) would change what it was taught to say.
_PLAIN = {
    "do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "temperature": 1.0,
    "top_p": 1.0, "top_k": 50, "min_new_tokens": 0, "use_cache": True,
}  # fmt: skip


class KeyedDraws:
    """Draws words for each row by its own stream of random numbers, whatever the other rows are.

    argmax(logits / temperature + g) with Gumbel noise g is a draw from softmax(logits / temperature) (Gumbel-max trick:
    Gumbel 1954; Maddison et al., NeurIPS 2014), so the search for the likeliest word draws.
    """

    def __init__(self, keys: Sequence[str], temperature: float, seed: int) -> None:
        """A row's stream follows from `seed` and its key."""
        self.temperature = temperature
        self.streams = [torch.Generator().manual_seed(keyed_seed(seed, "write", key)) for key in keys]

    def __call__(self, input_ids: Tensor, scores_BV: Tensor) -> Tensor:
        """As transformers asks of a logits processor."""
        words = scores_BV.shape[1]
        # float64: in float32 a uniform number is 0 or 1 too often for a vocabulary of 150,000 words
        uniform_BV = torch.stack([torch.rand(words, generator=one, dtype=torch.float64) for one in self.streams])
        tiny = torch.finfo(torch.float64).tiny
        gumbel_BV = -torch.log(-torch.log(uniform_BV.clamp_min(tiny)))
        return scores_BV.float() / self.temperature + gumbel_BV.float().to(scores_BV.device)


# As a job, shard by shard


def plan_writing(studies: pa.Table, how: Writing, ledger: Ledger) -> dict[str, int]:
    """Cut studies into shards of whole batches and write them down; name of each shard -> its studies. Resumes.

    Args:
        studies: columns WRITING, report ids unique.

    Raises:
        InputError: no studies, or a report id twice.
    """
    known = ledger.done(_PLAN_STAGE, _PLAN_SHARD)
    if known is not None:
        return dict(known["shards"])
    ids = studies["report_id"].to_pylist()
    if not ids or len(set(ids)) < len(ids):
        raise InputError(
            f"{len(ids)} studies to write for, {len(set(ids))} distinct ids", "at least one, each once",
            "check generation.splits and generation.limit",
        )  # fmt: skip
    # In the order in which the images lie in storage: a shard reads few files.
    ordered = (
        studies.select(WRITING.names).cast(WRITING).sort_by([("image_row", "ascending"), ("report_id", "ascending")])
    )
    entries, shards = [], {}
    size = how.batch * BATCHES_PER_SHARD
    for number, start in enumerate(range(0, ordered.num_rows, size)):
        table = ordered.slice(start, size)
        name = f"{number:06d}-{content_hash(*table['report_id'].to_pylist())}"
        entries.append(ledger.storage.write_table(_plan_file(name), table))
        shards[name] = table.num_rows
    ledger.commit(_PLAN_STAGE, _PLAN_SHARD, entries, {"shards": shards})
    return shards


@dataclass(frozen=True)
class MakeShardWriter:
    """Loads the model once per process. Small and picklable: the `actor_factory` of `run_shards`."""

    handle: LedgerHandle
    load: Callable[[], Writer]
    """Picklable, e.g. a `functools.partial`."""
    pixels: Callable[[], Pixels]
    """Picklable; `StoredPixels` reads prepared images file by file."""
    how: Writing
    threads: int

    def __call__(self) -> ShardFunction:
        use_threads(self.threads)
        return _ShardWriter(self, self.load(), self.pixels())


class _ShardWriter:
    def __init__(self, made: MakeShardWriter, writer: Writer, pixels: Pixels) -> None:
        self.made, self.writer, self.pixels = made, writer, pixels

    def __call__(self, shard: str) -> dict[str, Any]:
        """Write a shard's reports and commit them; its summary."""
        use_threads(self.made.threads)
        storage = self.made.handle.storage
        plan = storage.read_table(_plan_file(shard))
        images = self.pixels.take(plan["image_row"].to_numpy())
        reports = write(self.writer, images, plan["report_id"].to_pylist(), self.made.how)
        table = pa.table(
            {
                "report_id": plan["report_id"],
                "image_id": plan["image_id"],
                "completion": [report.text for report in reports],
                "tokens": pa.array([report.tokens for report in reports], pa.int32()),
                "finished": [report.finished for report in reports],
            },
            schema=WRITTEN,
        )
        entry = storage.write_table(_written_file(shard), table)
        summary = {
            "reports": len(reports),
            "unfinished": sum(not report.finished for report in reports),
            "empty": sum(not report.text for report in reports),
            "tokens": sum(report.tokens for report in reports),
        }
        self.made.handle.commit(WRITE, shard, [entry], summary)
        return summary


def written(storage: Storage, shards: dict[str, int]) -> pa.Table:
    """What was written, WRITTEN, in the order of the plan.

    Raises:
        ConsistencyError: another number of reports than was planned.
    """
    table = storage.read_tables([_written_file(name) for name in shards])
    if table.num_rows != sum(shards.values()):
        raise ConsistencyError(f"{table.num_rows} reports written", f"{sum(shards.values())}, as planned")
    return table


def _plan_file(shard: str) -> str:
    return f"_work/writing/{shard}.parquet"


def _written_file(shard: str) -> str:
    return f"_work/written/{shard}.parquet"


@dataclass
class StoredPixels:
    """Prepared images taken from storage, one file in memory at a time: cheap where rows come in order."""

    storage: Storage
    files: Sequence[str]
    """Of prepared images, in the order of the rows."""
    counts: Sequence[int]
    """Images in each file."""
    size: int
    _held: tuple[int, npt.NDArray[np.uint8]] | None = None

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """uint8 [len(rows), S, S], a copy.

        Raises:
            InputError: a row that no file has.
        """
        ends = np.cumsum(self.counts)
        owners = np.searchsorted(ends, rows, side="right")
        if len(rows) and (int(rows.min()) < 0 or int(owners.max()) >= len(self.files)):
            raise InputError(f"image rows {int(rows.min())} to {int(rows.max())}", f"0 to {int(ends[-1]) - 1}")
        taken = np.empty((len(rows), self.size, self.size), np.uint8)
        for owner in np.unique(owners).tolist():
            if self._held is None or self._held[0] != owner:
                self._held = None  # before the next file is read: never two
                self._held = owner, pixels_of(self.storage.read_table(self.files[owner], ["pixels"]), self.size)
            here = owners == owner
            taken[here] = self._held[1][rows[here] - (ends[owner] - self.counts[owner])]
        return taken
