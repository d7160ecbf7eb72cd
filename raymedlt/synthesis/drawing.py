"""From the plan to drawn images, shard by shard. No Ray in here.

plan/<shard>.parquet           PLAN rows; a shard is so many batches
_work/drawn/<shard>.parquet    row_id, image, sha256, and what is wrong with the image ("" for nothing)
"""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from raymedlt.cpus import use_threads
from raymedlt.errors import InputError
from raymedlt.ledger import Ledger, LedgerHandle
from raymedlt.machine import Settings
from raymedlt.shards import ShardFunction
from raymedlt.storage import content_hash, sha256_of
from raymedlt.synthesis.folder import generator_hash, load_generator
from raymedlt.synthesis.generator import Generator
from raymedlt.synthesis.plan import Plan
from raymedlt.synthesis.sampler import draw, encode_png, prepare_sampling, prompt_embeddings
from raymedlt.synthesis.settings import Precision, SamplerSettings

PLAN_STAGE, DRAW = "plan", "draw"
_EMBEDDING_BYTES = 256 * 1024**2
"""Prompt embeddings that a process keeps, at most."""

DRAWN = pa.schema(
    [
        ("row_id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("sha256", pa.string()),
        ("broken", pa.string()),  # "" or what is wrong
    ]
)


def write_plan(plan: Plan, shard_rows: int, ledger: Ledger) -> dict[str, int]:
    """Write the plan shard by shard, one in memory at a time; name of each shard -> its rows. Resumes."""
    known = ledger.done(PLAN_STAGE, "shards")
    if known is not None:
        return dict(known["shards"])
    entries, shards = [], {}
    for number, table in enumerate(plan.shards(shard_rows)):
        name = f"{number:06d}-{content_hash(*table['row_id'].to_pylist())}"
        entries.append(ledger.storage.write_table(f"plan/{name}.parquet", table))
        shards[name] = table.num_rows
    ledger.commit(PLAN_STAGE, "shards", entries, {"shards": shards})
    return shards


@dataclass(frozen=True)
class MakeDrawer:
    """Loads the generator once per process. Small and picklable."""

    handle: LedgerHandle
    generator: str
    adapters: str | None
    sampling: SamplerSettings
    machine: Settings
    threads: int

    def __call__(self) -> ShardFunction:
        use_threads(self.threads)
        loaded = load_generator(self.generator, adapters=self.adapters, device=self.machine.device)
        # the hash of a generator alone is known from loading it
        own = loaded.base_hash if self.adapters is None else generator_hash(self.generator, self.adapters)
        return Drawer(self, loaded, own)


class Drawer:
    """Draws shards."""

    def __init__(self, made: MakeDrawer, generator: Generator, own_hash: str) -> None:
        wanted = made.sampling.precision
        self.precision: Precision = made.machine.precision if wanted == "auto" else wanted
        self.settings = dataclasses.replace(made.sampling, precision=self.precision)
        self.handle, self.threads, self.hash = made.handle, made.threads, own_hash
        self.generator = prepare_sampling(generator, self.settings)
        self.embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __call__(self, shard: str) -> dict[str, Any]:
        """Draw a shard and commit it; its summary."""
        use_threads(self.threads)
        storage = self.handle.storage
        plan = storage.read_table(f"plan/{shard}.parquet")
        others = set(plan["checkpoint_hash"].to_pylist()) - {self.hash}
        if others:
            raise InputError(
                f"a plan for the generator {others.pop()[:12]}",
                f"the plan of this one, {self.hash[:12]}",
                "restore the generator that the plan was made for, or begin anew with --restart",
            )
        rows = plan.select(["row_id", "prompt", "label_set", "seed"]).to_pylist()
        drawn: list[dict[str, Any]] = []
        for start in range(0, len(rows), self.settings.batch):
            drawn += self._batch(rows[start : start + self.settings.batch])
        entry = storage.write_table(f"_work/drawn/{shard}.parquet", pa.Table.from_pylist(drawn, schema=DRAWN))
        broken = Counter(row["broken"] for row in drawn if row["broken"])
        summary = {"rows": len(rows), "broken": dict(sorted(broken.items()))}
        self.handle.commit(DRAW, shard, [entry], summary)
        return summary

    def _batch(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        prompts = [self.generator.worded(row["prompt"], row["label_set"]) for row in rows]
        texts = torch.stack([self._embedded(prompt, prompts) for prompt in prompts])
        found = draw(
            self.generator, texts, self._embedded("", prompts).unsqueeze(0), [row["seed"] for row in rows],
            self.settings, [row["label_set"] for row in rows],
        )  # fmt: skip
        cells = []
        for row, image, broken in zip(rows, found.images_BSS, found.reasons, strict=True):
            data = encode_png(image)
            path = f"{row['row_id']}.png"
            cells.append(
                {
                    "row_id": row["row_id"], "image": {"bytes": data, "path": path},
                    "sha256": sha256_of(data), "broken": broken,
                }
            )  # fmt: skip
        return cells

    def _embedded(self, prompt: str, wanted: list[str]) -> torch.Tensor:
        """The embedding of a prompt; computed once per distinct prompt as long as there is room."""
        if prompt not in self.embeddings:
            missing = [each for each in (prompt, *wanted) if each not in self.embeddings]
            self.embeddings |= prompt_embeddings(
                self.generator, missing, batch=self.settings.batch, precision=self.precision
            )
        found = self.embeddings[prompt]
        most = max(len(wanted) + 1, _EMBEDDING_BYTES // (found.numel() * found.element_size()))
        while len(self.embeddings) > most:
            self.embeddings.popitem(last=False)
        return found
