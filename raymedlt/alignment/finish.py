"""The end of the job: both models' reports scored on the same studies, tables, page, manifest."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raymedlt.again import command_line
from raymedlt.alignment.account import Line, history_of
from raymedlt.alignment.card import model_card, run_card
from raymedlt.alignment.config import AlignConfig
from raymedlt.alignment.monitors import alarms
from raymedlt.alignment.page import Compared, Reports, align_page
from raymedlt.alignment.rewards import RewardModel, load_reward
from raymedlt.config import config_hash, to_yaml
from raymedlt.errors import ConsistencyError
from raymedlt.evaluation.answers import split_answer
from raymedlt.evaluation.scores import Evaluation, evaluate, generations_table
from raymedlt.finetuning.examples import chosen
from raymedlt.finetuning.export import MODEL
from raymedlt.finetuning.finish import versions
from raymedlt.finetuning.finished import FinishedRun
from raymedlt.finetuning.generation import written
from raymedlt.ledger import Ledger, flatten
from raymedlt.machine import Settings
from raymedlt.progress import Progress
from raymedlt.storage import Storage

PAGE, FINISH = "report.html", "finish"
SCORES = (
    "complete_micro_f1", "complete_micro_precision", "complete_micro_recall", "micro_f1", "micro_precision",
    "micro_recall", "report_f1", "cluster_f1", "cluster_f1_strict", "sentence_f1", "bleu", "chrf", "false_denials",
    "words",
)  # fmt: skip
"""What the two models are compared in, where it was computed."""
PERMUTATIONS = 1000


@dataclass(frozen=True)
class Outcome:
    """What the stages before left."""

    config: AlignConfig
    base: FinishedRun
    settings: Settings
    shards: dict[str, int]
    clusters: str
    training: Line
    """What the ledger keeps of it."""
    where: str


def base_generations(base: FinishedRun) -> pa.Table:
    """What the fine-tuned model wrote (schema.GENERATIONS), all splits."""
    files = sorted(each for each in base.storage.list_files("generations") if each.endswith(".parquet"))
    return base.storage.read_tables(files)


def finish(outcome: Outcome, storage: Storage, ledger: Ledger, progress: Progress, began: float) -> str:
    """Score, and write everything that the run leaves; the page's path or URI."""
    page = f"{storage.uri.rstrip('/')}/{PAGE}"
    if ledger.done(FINISH, "page") is not None:
        return page
    with progress.stage("score and write the page"):
        model = RewardModel.load(outcome.clusters, severity=outcome.config.rewards.severity)
        reports = _reports(outcome, storage, model)
        history = history_of(storage)
        compared = [_compared(outcome, name, reports) for name in SCORES if name in reports.aligned.scores]
        where = storage.uri.rstrip("/")
        timings = {"work": dict(progress.timings), "seconds_before_the_page_was_written": time.monotonic() - began}
        text = align_page(
            config=outcome.config, reports=reports, model=model, history=history, training=outcome.training,
            compared=compared, rewards=reports.rewards, warnings=alarms(history), seconds=dict(progress.timings),
            where=outcome.where, folder=where, command=command_line(),
            settings=flatten(asdict(outcome.config)), defaults=flatten(asdict(AlignConfig())),
        )  # fmt: skip
        metrics = {
            "compared": {
                each.name: {
                    "fine-tuned": _numbers(each.before), "aligned": _numbers(each.after),
                    "difference": _numbers(each.difference), "p": each.p,
                }
                for each in compared
            },
            "rewards": reports.rewards,
            "validation": outcome.training.get("validation", []),
            "best_step": outcome.training.get("best_step"),
            "history": history,
            "alarms": alarms(history),
        }  # fmt: skip
        columns = reports.columns
        entries = [
            storage.write_table("generations/all.parquet", generations_table(columns, reports.aligned.per_report)),
            storage.write_bytes(PAGE, text.encode()),
            storage.write_bytes("README.md", run_card(outcome.config, compared).encode()),
            storage.write_bytes(f"{MODEL}/README.md", model_card(outcome.config, compared).encode()),
            storage.write_bytes("config.yaml", to_yaml(outcome.config).encode()),
            storage.write_bytes("metrics.json", _json(metrics)),
            storage.write_bytes("timings.json", _json(timings)),
        ]
        manifest = {
            "configuration": config_hash(outcome.config),
            "versions": versions(),
            "files": [entry.to_json() for entry in [*ledger.manifest(), *entries]],
        }
        entries.append(storage.write_bytes("manifest.json", _json(manifest)))
        ledger.commit(FINISH, "page", entries, {})
    for warning in alarms(history):
        progress.say(f"warning: {warning}")
    return page


def _reports(outcome: Outcome, storage: Storage, model: RewardModel) -> Reports:
    """Both models' texts of the same studies, and their scores."""
    base = outcome.base
    before = {row["report_id"]: row for row in base_generations(base).to_pylist()}
    after = {row["report_id"]: row["completion"] for row in written(storage, outcome.shards).to_pylist()}
    studies = base.studies()
    rows = np.array([row for row, name in enumerate(studies.report_ids.tolist()) if name in before], np.int64)
    ids = studies.report_ids[rows].tolist()
    if set(ids) != set(after) or len(ids) != len(before):
        raise ConsistencyError(f"{len(after)} reports written of {len(before)}", "equal numbers", "--restart")
    references = studies.reference_findings[rows].tolist()
    complete = studies.complete_findings[rows].tolist()

    def scored(texts: list[str]) -> Evaluation:
        return evaluate(
            [split_answer(text)[0] for text in texts], references, studies.patient_ids[rows].tolist(),
            complete=complete if all(complete) else None, language=studies.languages[rows].tolist(),
            clusters=model.models["findings"],
        )  # fmt: skip

    old, new = [before[name]["completion"] for name in ids], [after[name] for name in ids]
    given = [
        {"findings": findings, "impression": impression, "language": language}
        for findings, impression, language in zip(
            references, studies.reference_impressions[rows].tolist(), studies.languages[rows].tolist(), strict=True
        )
    ]
    rewards = {}
    for name in dict.fromkeys((*outcome.config.rewards.use, "cluster_f1_strict", "cluster_f1", "exact_f1")):
        values = [[v for v in load_reward(name)(texts, given, model) if v is not None] for texts in (old, new)]
        rewards[name] = [float(np.mean(each)) if each else 0.0 for each in values]
    shown = chosen(
        ids, complete if all(complete) else references, language=str(studies.languages[rows[0]]),
        seed=outcome.config.seed,
    )  # fmt: skip
    pixels = base.pixels()
    return Reports(
        columns={
            "report_id": ids, "image_id": studies.image_ids[rows].tolist(),
            "patient_id": studies.patient_ids[rows].tolist(), "split": studies.splits[rows].tolist(),
            "reference": references, "completion": new,
        },
        before=old, tuned=scored(old), aligned=scored(new), languages=studies.languages[rows].tolist(),
        rewards=rewards, shown=shown,
        images=[pixels.take(studies.image_rows[rows[[number]]])[0] for number in shown],
    )  # fmt: skip


def _compared(outcome: Outcome, name: str, reports: Reports) -> Compared:
    how = {"resamples": outcome.config.bootstrap, "seed": outcome.config.seed}
    return Compared(
        name=name,
        before=reports.tuned.interval(name, **how),
        after=reports.aligned.interval(name, **how),
        difference=reports.aligned.difference(reports.tuned, name, **how),
        p=reports.aligned.randomisation_test(
            reports.tuned, name, permutations=PERMUTATIONS, seed=outcome.config.seed
        ),
    )  # fmt: skip


def _numbers(interval: Any) -> dict[str, float | None]:
    values = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
