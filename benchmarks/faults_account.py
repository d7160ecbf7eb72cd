"""What a killed run of a job came to: what was computed twice, and what differs from the undisturbed one."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from runs import digests

OF_THE_RUN = re.compile(
    r"(^|/)(report\.html|README\.md|manifest\.json|driver\.json|timings\.json|config\.yaml|\.[^/]+)$"
    r"|(^|/)(_work|finish)/|^_ledger/cluster/"
)
"""Files that tell times or the output's place, with the markers that hold their sha256, or are no result."""
TIMES = re.compile("^seconds|seconds$|^(waited_for_data|workers|scored|shared|hits|misses|deaths|replicas)$")


# What was computed twice


def recomputed(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shards and rows that were computed again, beside those that killed processes had in their hands."""
    begun, ended, twice = Counter[str](), Counter[str](), []
    for event in events:
        if "begun" in event:
            if ended[event["begun"]]:
                twice.append(event["begun"])
            begun[event["begun"]] += 1
        elif "ended" in event:
            ended[event["ended"]] += 1
    rows = {name: rows_of(name) for name in begun}
    again = {name: count - 1 for name, count in begun.items() if count > 1}
    in_hands = {name: begun[name] - ended[name] for name in begun if begun[name] > ended[name]}
    return {
        "shards": len(begun),
        "shards again": sum(again.values()),
        "shards in killed hands": sum(in_hands.values()),
        "rows": sum(rows.values()),
        "rows again": sum(rows[name] * count for name, count in again.items()),
        "rows in killed hands": sum(rows[name] * count for name, count in in_hands.items()),
        "finished and again": twice,
    }


def rows_of(marker: str) -> int:
    """Rows of the largest table of a shard that is still there; 0 for one without."""
    path = Path(marker)
    if not path.exists():
        return 0
    folder = path.parents[2]
    names = [folder / file["name"] for file in json.loads(path.read_text())["files"]]
    tables = [name for name in names if name.suffix == ".parquet" and name.exists()]
    return max((pq.ParquetFile(name).metadata.num_rows for name in tables), default=0)


def steps_again(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Optimizer steps that were done again, beside those since the last checkpoint, over all restarts."""
    reached, kept = defaultdict[str, int](int), defaultdict[str, int](int)
    done = again = since = restarts = 0
    too_many = []
    for event in events:
        name = event.get("training", "")
        if "kept" in event:
            kept[name] = event["kept"]
        elif "step" in event:
            step, before = event["step"], reached[name]
            if step <= before:
                restarts += 1
                again += before - step + 1
                since += before - kept[name]
                if before - step + 1 > before - kept[name]:
                    too_many.append(f"{name}: from {before} back to {step}, checkpoint at {kept[name]}")
            reached[name] = step
            done += 1
    return {
        "steps": done - again, "restarts that lost steps": restarts, "steps again": again,
        "steps since the last checkpoints": since, "too many": too_many,
    }  # fmt: skip


# What came out


def result(output: Path) -> dict[str, str]:
    """sha256 of every file that must not depend on kills, by name; of JSON without times."""
    found = {name: of for name, of in digests(output).items() if not OF_THE_RUN.search(name)}
    for name in found:
        if name.endswith(("metrics.json", "model.json")):
            words = json.dumps(timeless(json.loads((output / name).read_text())), sort_keys=True)
            found[name] = hashlib.sha256(words.encode()).hexdigest()
    return found


def timeless(value: Any) -> Any:
    """JSON without what the machine decides."""
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if not TIMES.search(key)}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def apart(ours: Path, theirs: Path) -> float:
    """Largest relative difference of the two runs' losses; infinite where one has other epochs or steps."""
    one, two = (json.loads((each / "metrics.json").read_text()).get("history", []) for each in (ours, theirs))
    if len(one) != len(two):
        return float("inf")
    pairs = [
        (float(first[key]), float(second[key]))
        for first, second in zip(one, two, strict=True)
        for key in ("loss", "validation_loss", "reward")
        if key in first
    ]
    return max((abs(x - y) / max(abs(x), abs(y), 1e-9) for x, y in pairs), default=0.0)
