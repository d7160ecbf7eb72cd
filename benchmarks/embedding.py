"""How fast are sentences embedded, and is the result the same?

    python benchmarks/embedding.py [--sentences 75000]

1. Our encoder against `SentenceTransformer.encode` on OpenI's distinct sentences, in turn, three times: ratio of the
   medians, least cosine to float32, and whether the clusters stay the same.
2. The stage `embed` of the job through Ray Data against the same stage in threads, on PadChest's distinct sentences:
   sentences per second between the first and the last finished shard of each worker (start-up listed apart), and equal
   bits.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from common import openi_reports, report

from raymedlt.clustering import hdbscan_fit
from raymedlt.embedding.encoder import Encoder, choose_precision, packaged_model
from raymedlt.enrichment.corpus import distinct, sentences_of, study_ids, training_rows
from raymedlt.enrichment.stages import EMBED, EmbedShard
from raymedlt.ledger import Ledger
from raymedlt.progress import Progress
from raymedlt.reports.readers import open_reader
from raymedlt.runtime import connect, private_by_default, run_shards, run_shards_locally
from raymedlt.schema import REPORTS
from raymedlt.storage import Storage

WORKERS = os.cpu_count() or 1
SHARD = 1024


def openi_keys() -> list[str]:
    table = openi_reports()
    rows = training_rows(table, sentences_of(table))
    return distinct(rows, "findings", study_ids(rows)).keys


def against_sentence_transformers(keys: list[str]) -> dict[str, Any]:
    """Ours and theirs in turn on the same sentences."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sklearn.metrics import adjusted_rand_score

    choice = choose_precision(None, "auto", keys[::50])
    ours, exact = Encoder(None, choice.precision), Encoder(None, "float32")
    theirs = SentenceTransformer(str(packaged_model()))
    times: dict[str, list[float]] = {"ours": [], "sentence_transformers": []}
    ours.encode(keys[:200], WORKERS)
    theirs.encode(keys[:200])
    for _ in range(3):
        started = time.perf_counter()
        vectors = ours.encode(keys, WORKERS)
        times["ours"].append(time.perf_counter() - started)
        torch.set_num_threads(WORKERS)
        started = time.perf_counter()
        reference = theirs.encode(keys, show_progress_bar=False)
        times["sentence_transformers"].append(time.perf_counter() - started)
    float32 = exact.encode(keys, WORKERS)
    labels, exact_labels = hdbscan_fit(vectors).labels, hdbscan_fit(float32).labels
    both = (labels >= 0) & (exact_labels >= 0)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "sentences": len(keys),
        "precision": choice.precision,
        "sentences_per_second": {name: round(len(keys) / seconds) for name, seconds in medians.items()},
        "times_faster": round(medians["sentence_transformers"] / medians["ours"], 2),
        "times_faster_each": [
            round(b / a, 2) for a, b in zip(times["ours"], times["sentence_transformers"], strict=True)
        ],
        "least_cosine_to_float32": round(float((vectors * float32).sum(1).min()), 6),
        "least_cosine_of_float32_to_sentence_transformers": round(float((reference * float32).sum(1).min()), 6),
        "clusters_adjusted_rand_index_to_float32": round(float(adjusted_rand_score(exact_labels, labels)), 5),
        "the_same_on_sentences_that_both_cluster": round(
            float(adjusted_rand_score(exact_labels[both], labels[both])), 5
        ),
    }


def padchest_keys(count: int) -> list[str]:
    reader = open_reader(None, "padchest")
    rows = pa.concat_tables([batch for unit in reader.units() for batch in reader.read(unit)])
    table = rows.filter(pc.is_null(rows["reason"])).select(REPORTS.names)
    keys = sorted(set(sentences_of(table)["sentence_key"].to_pylist()))
    return keys[:count]


def stage(keys: list[str], on_ray: bool) -> tuple[dict[str, Any], np.ndarray]:
    """Run the job's stage `embed` over shards; sentences per second once every worker has finished its first shard."""
    chunks = {f"{n:05d}": keys[start : start + SHARD] for n, start in enumerate(range(0, len(keys), SHARD))}
    precision = choose_precision(None, "auto").precision
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage.of(f"{folder}/run")
        with Ledger.open(storage, config_hash="0", config={}, data_hash="0") as ledger:
            for name, chunk in chunks.items():
                storage.write_table(f"_work/keys/{name}.parquet", pa.table({"sentence_key": chunk}))
            function = EmbedShard(ledger.worker(), None, precision, 128, 1)
            options: dict[str, Any] = {"progress": Progress(), "workers": WORKERS, "ledger": ledger}
            started = time.time()
            if on_ray:
                with connect(WORKERS):
                    run_shards(EMBED, list(chunks), function, **options)
            else:
                run_shards_locally(EMBED, list(chunks), function, **options)
            total = time.time() - started
        finished = sorted(os.stat(storage.path(f"_ledger/{EMBED}/{name}.json")).st_mtime for name in chunks)
        first, last = finished[2 * WORKERS - 1], finished[-WORKERS]
        between = len(chunks) - 3 * WORKERS + 1
        vectors = np.concatenate(
            [
                storage.read_table(f"_work/vectors/{name}.parquet")["vector"].combine_chunks().flatten().to_numpy()
                for name in chunks
            ]
        )
        rate = between * SHARD / (last - first)
        return {
            "sentences_per_second_steady": round(rate),
            "seconds_in_all": round(total, 1),
            "start_up_seconds": round(finished[0] - started - SHARD * WORKERS / rate, 1),
        }, vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=75_000)
    arguments = parser.parse_args()
    private_by_default()
    first = against_sentence_transformers(openi_keys())
    keys = padchest_keys(arguments.sentences)
    runs: dict[str, list[dict[str, Any]]] = {"threads": [], "ray": []}
    bits = {}
    for name in ("threads", "ray", "threads", "ray"):  # in turn, since the machine's speed drifts
        figures, bits[name] = stage(keys, name == "ray")
        runs[name].append(figures)
    assert np.array_equal(bits["threads"], bits["ray"])
    steady = {name: statistics.mean(run["sentences_per_second_steady"] for run in each) for name, each in runs.items()}
    report(
        "embedding",
        {
            "against_sentence_transformers": first,
            "through_ray_data": {
                "sentences": len(keys),
                "workers": WORKERS,
                **runs,
                "ray_slower_by": round(steady["threads"] / steady["ray"] - 1, 4),
                "equal_bits": True,
            },
        },
    )


if __name__ == "__main__":
    main()
