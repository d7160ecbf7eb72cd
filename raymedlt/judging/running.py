"""jobs/evaluate.py: judge a finished run, alone or against another one.

An enrichment run alone is audited (enrichment/audit/evaluation.py), part by part. Everything else here is one piece of
work in one process, seconds to minutes: scores, tables and page are written together, and the ledger says when.
"""

from __future__ import annotations

import json
import time
from typing import Any

from raymedlt import __version__
from raymedlt.again import command_line
from raymedlt.config import flatten, hashed_part, to_yaml
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.judging.finished import FinishedRun, open_finished
from raymedlt.judging.judged import Judged, scores_json, scores_table
from raymedlt.ledger import Ledger
from raymedlt.progress import Progress
from raymedlt.reports.vocabulary import tables_hash
from raymedlt.runreport.about import configuration_blocks
from raymedlt.runreport.page import KeyValues, Page, Section, render
from raymedlt.runtime import private_by_default
from raymedlt.storage import FileEntry, Storage, content_hash

STAGE, PAGE, MANIFEST = "judge", "report.html", "manifest.json"
_AUDIT_ONLY = ("parts", "folds", "injected_reports", "sheet")
_USED = {
    "enrichment": ("labels", "bootstrap", "permutations", "examples", "seed"),
    "classifier": ("bootstrap", "permutations", "seed"),
    "synthesis": (),
    "generation": ("scoring", "bootstrap", "permutations", "examples", "seed"),
}
"""Sections and keys that change what comes out, by --what; the runs themselves count by their content."""


def describe(config: EvaluateConfig) -> str:
    """What `run` would do. Reads the runs' manifests only."""
    if _is_audit(config):
        from raymedlt.enrichment.audit import evaluation

        return evaluation.describe(config)
    run, against = _open(config)
    storage = Storage.of(config.output)
    done = "  [done]" if storage.exists(f"_ledger/{STAGE}/page.json") else ""
    lines = [
        "raymedlt evaluate: what would be done (nothing was run)",
        "",
        f"run        {run.uri}",
        *([f"against    {against.uri}"] if against is not None else []),
        f"output     {storage.uri}",
        "resources  this process alone",
        "",
        f"{config.what:<10} {_does(config)}{done}",
        "",
        "tables     scores/" + (", items/" if config.what in ("generation", "enrichment") else ""),
        f"page       {PAGE}; figures: metrics.json",
    ]
    return "\n".join(lines)


def run(config: EvaluateConfig) -> str:
    """Judge `config.run`, leave the results in `config.output`, and return the page's path or URI.

    Raises:
        InputError: no finished run of this kind, or two that can't be compared.
        ConsistencyError: a file of a run isn't what its manifest says.
        RunConflictError: the output folder belongs to another evaluation.
    """
    private_by_default()
    if _is_audit(config):
        from raymedlt.enrichment.audit import evaluation

        return evaluation.run(config)
    began, progress = time.monotonic(), Progress()
    run, against = _open(config)
    decisive = _decisive(config)
    digest = content_hash(json.dumps(decisive, sort_keys=True))
    storage = Storage.of(config.output)
    content = content_hash(run.content, against.content if against is not None else "")
    page = f"{storage.uri.rstrip('/')}/{PAGE}"
    with Ledger.open(
        storage, config_hash=digest, config=decisive, data_hash=content, job="evaluate", restart=config.restart
    ) as ledger:
        if ledger.done(STAGE, "page") is not None:
            progress.skip(STAGE, "already done")
            return page
        with progress.stage(f"judge {config.what}"):
            judged = _judge(config, run, against)
        for warning in judged.warnings:
            progress.say(f"warning: {warning}")
        with progress.stage("page"):
            entries = _write(config, judged, run, against, storage, digest, time.monotonic() - began)
            ledger.commit(STAGE, "page", entries, {})
    return page


def _is_audit(config: EvaluateConfig) -> bool:
    return config.what == "enrichment" and config.against is None


def _open(config: EvaluateConfig) -> tuple[FinishedRun, FinishedRun | None]:
    run = open_finished(config.run, config.what)
    return run, None if config.against is None else open_finished(config.against, config.what, "against")


def _decisive(config: EvaluateConfig) -> dict[str, Any]:
    used = _USED[config.what]
    found = {key: value for key, value in hashed_part(config).items() if key.split(".")[0] in used}
    found |= {"what": config.what, "against": config.against is not None}
    return found | ({"rule tables": tables_hash()} if config.what in ("generation", "enrichment") else {})


def _does(config: EvaluateConfig) -> str:
    return {
        "enrichment": "additions of both runs on the reports of both",
        "classifier": "average precision, area under ROC and F1 by group and class",
        "synthesis": "acceptance by class, reasons, likeness, copies",
        "generation": "scores of words, sentences and findings; finding by finding",
    }[config.what] + ("" if config.against is None else ", and the differences")


def _judge(config: EvaluateConfig, run: FinishedRun, against: FinishedRun | None) -> Judged:
    # Each judge imports what its kind of run needs, which takes seconds.
    if config.what == "generation":
        from raymedlt.judging import generation

        return generation.judge(config, run, against)
    if config.what == "classifier":
        from raymedlt.judging import classifier

        return classifier.judge(config, run, against)
    if config.what == "synthesis":
        from raymedlt.judging import synthesis

        return synthesis.judge(config, run, against)
    from raymedlt.judging import additions

    assert against is not None  # an enrichment run alone is audited
    return additions.judge(config, run, against)


def _write(
    config: EvaluateConfig,
    judged: Judged,
    run: FinishedRun,
    against: FinishedRun | None,
    storage: Storage,
    digest: str,
    seconds: float,
) -> list[FileEntry]:
    metrics = {
        "what": config.what, "run": run.uri, "against": None if against is None else against.uri,
        "verdict": judged.verdict, "headline": [list(each) for each in judged.headline],
        "scores": scores_json(judged.measured), **judged.figures,
    }  # fmt: skip
    tables = {"scores": scores_table(judged.measured), **judged.tables}
    entries = [
        *(storage.write_table(f"{name}/all.parquet", table) for name, table in tables.items()),
        storage.write_bytes(PAGE, render(_page(config, judged, run, against, digest)).encode()),
        storage.write_bytes("metrics.json", _json(metrics)),
        storage.write_bytes("timings.json", _json({"seconds_before_the_page_was_written": seconds})),
        storage.write_bytes("config.yaml", to_yaml(config).encode()),
        storage.write_bytes("README.md", _card(run, against).encode()),
    ]
    manifest = {
        "configuration": digest, "versions": {"raymedlt": __version__}, "files": [each.to_json() for each in entries]
    }  # fmt: skip
    return [*entries, storage.write_bytes(MANIFEST, _json(manifest))]


def _page(config: EvaluateConfig, judged: Judged, run: FinishedRun, against: FinishedRun | None, digest: str) -> Page:
    runs = [("This run", run.uri)] + ([] if against is None else [("The other", against.uri)])
    own, usual = flatten(config), flatten(EvaluateConfig())
    settings = {key: value for key, value in own.items() if key.split(".")[0] not in _AUDIT_ONLY}
    return Page(
        title=judged.title,
        verdict=judged.verdict,
        about="; ".join(f"{name.lower()}: {uri}" for name, uri in runs),
        key_figures=judged.key_figures,
        warnings=judged.warnings,
        sections=[
            *judged.sections,
            Section(title="Runs", blocks=[KeyValues(runs)]),
            Section(title="Configuration", blocks=configuration_blocks(settings, usual)),
        ],
        config_hash=digest,
        resume=command_line(),
    )


def _card(run: FinishedRun, against: FinishedRun | None) -> str:
    beside = "" if against is None else f" against {against.uri}"
    return f"""# Evaluation of a finished run

Made by raymedlt {__version__}: {run.uri}{beside}. See {PAGE}; the figures are in metrics.json and the table `scores`.

The page and the table `items` are as private as the run itself.
"""


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
