"""The audit as a job: read a finished run, do the parts, leave tables, an audit sheet and a page.

All of it runs in one process: a part takes seconds for thousands of reports. Memory: O(reports + distinct sentences x
width). A part that is done is marked in the ledger and not done again. The sheet is written once and never touched
again, since people write into it; the page is written anew each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from raymedlt import __version__
from raymedlt.again import command_line
from raymedlt.config import hashed_part, to_yaml
from raymedlt.enrichment.audit import contradiction, errors, injection, page, parts, readback, recovery, sheet
from raymedlt.enrichment.audit.finished import MANIFEST, FinishedRun, open_run
from raymedlt.enrichment.audit.inputs import read_file
from raymedlt.errors import InputError, RunConflictError
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.ledger import Ledger
from raymedlt.progress import Progress
from raymedlt.reports.vocabulary import tables_hash
from raymedlt.runreport.page import render
from raymedlt.runtime import private_by_default
from raymedlt.schema import INJECTIONS
from raymedlt.storage import FileEntry, Storage, below, content_hash, sha256_of

STAGE = "evaluate"
PAGE, RESULT = "report.html", "evaluation.json"
SHEET_CSV, SHEET_PAGE, SHEET_KEY = "sheet/sheet.csv", "sheet/sheet.html", "sheet/key.csv"
NO_ERRORS = f"known errors exist for these languages only: {', '.join(errors.LANGUAGES)}"
NO_ADDITIONS = "the run has no additions"

# What may differ between a run and the next one on its folder: where it reads from, which parts it does, and what is
# of other evaluations.
_FREE = ("run", "parts", "sheet.read", "sheet.key", "against", "scoring", "bootstrap", "permutations", "examples")

_WHAT = {
    page.RECOVERY: "hide sentences of one patient in {folds}, learnt from the others; are they offered back?",
    page.CONTRADICTION: "additions against {labels}; the reports' own sentences beside them",
    page.INJECTION: "known errors and good sentences offered to the guard, for up to {injected_reports:,} reports",
    page.SHEET: "up to {items:,} additions and {decoys:,} decoys for two readers",
}


def describe(config: EvaluateConfig) -> str:
    """What `run` would do. Reads the run's manifest and configuration only."""
    private_by_default()
    source, storage = open_run(config.run, check=False), Storage.of(config.output)
    rows = sum(entry["rows"] for entry in source.manifest["files"] if entry["name"].startswith("additions/"))
    done = {name.rpartition("/")[2].removesuffix(".json") for name in storage.list_files(f"_ledger/{STAGE}")}
    values = {
        "folds": config.folds,
        "injected_reports": config.injected_reports,
        "items": config.sheet.items,
        "decoys": config.sheet.decoys,
        "labels": "the labels of --labels.path" if config.labels.path else "the reports' own labels",
    }
    lines = [
        "raymedlt evaluate: what would be done (nothing was run)",
        "",
        f"run        {source.uri} ({rows:,} additions; policy {source.config.policy}, control {source.config.control})",
        f"output     {storage.uri}",
        "resources  this process alone",
        "",
        *(
            f"{part:<14} {_WHAT[part].format(**values)}" + ("  [done]" if part in done else "")
            for part in _WHAT
            if part in config.parts
        ),
        *([f"{'readers':<14} verdicts of the filled-in sheet"] if config.sheet.read else []),
        "",
        "tables     recovery/, contradictions/, injections/, verdicts/, rejected/",
        f"sheet      {SHEET_CSV}, {SHEET_PAGE}, {SHEET_KEY}",
        f"page       {PAGE}; figures: {RESULT}",
    ]
    return "\n".join(lines)


def run(config: EvaluateConfig) -> str:
    """Audit `config.run`, leave the results in `config.output`, and return the page's path or URI.

    Raises:
        InputError: no finished run, labels or a sheet that can't be used, or too many rejected cells.
        ConsistencyError: a file of the run isn't what its manifest says.
        RunConflictError: the output folder belongs to another audit, or a changed sheet stands in the way.
    """
    private_by_default()
    progress = Progress()
    with progress.stage("check the run"):
        source = open_run(config.run)
    inputs = [sha256_of(source.storage.read_bytes(MANIFEST))]
    if config.labels.path:
        inputs.append(sha256_of(read_file(config.labels.path, "labels.path")))
    decisive = {
        key: value for key, value in hashed_part(config).items() if key not in _FREE and not key.startswith("scoring.")
    }
    decisive["rule tables"] = tables_hash()
    digest = content_hash(json.dumps(decisive, sort_keys=True))
    storage = Storage.of(config.output)
    with Ledger.open(
        storage, config_hash=digest, config=decisive, data_hash=content_hash(*inputs), job="evaluate",
        restart=config.restart,
    ) as ledger:  # fmt: skip
        return _Audit(config, source, storage, ledger, progress, digest).work()


class _Audit:
    def __init__(
        self,
        config: EvaluateConfig,
        source: FinishedRun,
        storage: Storage,
        ledger: Ledger,
        progress: Progress,
        digest: str,
    ) -> None:
        self.config, self.source, self.storage = config, source, storage
        self.ledger, self.progress, self.digest = ledger, progress, digest
        self._injection: injection.Injection | None = None

    def work(self) -> str:
        """Each part that was asked for, then the page."""
        do: dict[str, Callable[[], tuple[list[FileEntry], dict[str, Any]]]] = {
            page.RECOVERY: self._recovery,
            page.CONTRADICTION: self._contradiction,
            page.INJECTION: self._inject,
            page.SHEET: self._sheet,
        }
        figures: dict[str, dict[str, Any]] = {}
        for part, work in do.items():
            known = self.ledger.done(STAGE, part)
            if known is None and part not in self.config.parts:
                continue  # what an earlier run did stays on the page
            if known is not None:
                self.progress.skip(part, "already done")
            else:
                with self.progress.stage(part):
                    entries, known = work()
                    self.ledger.commit(STAGE, part, entries, known)
            figures[part] = known
        read = self._read_back()
        with self.progress.stage("page"):
            self._write_page(figures, read)
        return f"{self.storage.uri.rstrip('/')}/{PAGE}"

    def _recovery(self) -> tuple[list[FileEntry], dict[str, Any]]:
        try:
            found = recovery.hide_and_recover(
                self.source.training, self.source.config, self.source.embed, self.config.folds
            )
        except InputError as error:  # too few patients: the other parts need not suffer
            return [], {"left_out": str(error).partition(". To fix")[0]}
        figures = {
            "fitted": found.fitted,
            "scored": found.scored,
            "guarded": found.figures(guarded=True),
            "unguarded": found.figures(guarded=False),
        }
        return [self.storage.write_table("recovery/all.parquet", found.table)], figures

    def _contradiction(self) -> tuple[list[FileEntry], dict[str, Any]]:
        labels, scheme = self._labels()
        if scheme is None:
            return [], {"left_out": contradiction.NO_SCHEME if labels else contradiction.NO_LABELS}
        found = contradiction.judge_additions(
            self.source.training, self.source.additions, labels, scheme, self.source.language
        )
        return [self.storage.write_table("contradictions/all.parquet", found.table)], found.figures()

    def _labels(self) -> tuple[dict[str, list[str]], str | None]:
        labels = contradiction.labels_of(self.source.reports, self.config.labels.path)
        return labels, contradiction.scheme_for(labels, self.config.labels.format) if labels else None

    def _inject(self) -> tuple[list[FileEntry], dict[str, Any]]:
        if self.source.language not in errors.LANGUAGES:
            return [], {"left_out": NO_ERRORS}
        found = self._injected()
        return [self.storage.write_table("injections/all.parquet", found.table)], found.figures()

    def _injected(self) -> injection.Injection:
        if self._injection is None:
            self._injection = injection.inject(
                self.source.knowledge,
                self.source.training,
                self.config.injected_reports,
                self.config.seed,
                contradiction.labelled(*self._labels()),
            )
        return self._injection

    def _sheet(self) -> tuple[list[FileEntry], dict[str, Any]]:
        if not self.source.additions.num_rows:
            return [], {"left_out": NO_ADDITIONS}
        options, language = self.config.sheet, self.source.language
        decoys = self._injected().table if language in errors.LANGUAGES else INJECTIONS.empty_table()
        made = sheet.make_sheet(
            self.source.reports,
            self.source.additions,
            decoys,
            language,
            options.items,
            options.decoys,
            self.config.seed,
        )
        content = sheet.sheet_csv(made)
        if self.storage.exists(SHEET_CSV) and self.storage.read_bytes(SHEET_CSV) != content:
            raise RunConflictError(
                f"'{self.storage.uri}/{SHEET_CSV}' has been written in, but its key is lost",
                "a sheet together with its key",
                "move the sheet away, or give another --output",
            )
        self.storage.write_bytes(SHEET_CSV, content)
        self.storage.write_bytes(SHEET_PAGE, render(sheet.sheet_page(made)).encode())
        # Only the key is the ledger's: people change the sheet, and must find it as they left it.
        entry = self.storage.write_bytes(SHEET_KEY, sheet.key_csv(made.key))
        drawn = [row["band"] for row in made.key.to_pylist() if not row["decoy"]]
        figures = {
            "items": len(drawn),
            "decoys": len(made.rows) - len(drawn),
            "drawn": {band: drawn.count(band) for band in sheet.BANDS},
            "strata": made.strata,
        }
        return [entry], figures

    def _read_back(self) -> readback.ReadBack | None:
        if self.config.sheet.read is None:
            return None
        key = self.config.sheet.key or below(self.config.output, SHEET_KEY)
        with self.progress.stage("readers"):
            read = readback.read_sheet(self.config.sheet.read, readback.read_key(key))
        rejected, allowed = read.rejected.num_rows, self.config.max_rejected
        if allowed is not None and rejected > allowed:
            raise InputError(
                f"{rejected} cells of the sheet were rejected, first {read.rejected.to_pylist()[0]['row_id']}",
                f"at most {allowed} (--max_rejected)",
                f"mend them: {readback.NOT_A_VERDICT}",
            )
        return read

    def _write_page(self, figures: dict[str, dict[str, Any]], read: readback.ReadBack | None) -> None:
        entries = []
        shown = dict(figures)
        if read is not None:
            shown[page.READERS_PART] = read.figures(sheet.strata_of(self.source.additions))
            entries.append(self.storage.write_table("verdicts/all.parquet", read.verdicts))
            if read.rejected.num_rows:
                entries.append(self.storage.write_table("rejected/all.parquet", read.rejected))
        warnings = self.source.warnings()
        for warning in warnings:
            self.progress.say(f"warning: {warning}")
        root = self.storage.uri.rstrip("/")
        names = {"recovery": "recovery", "contradictions": "contradictions", "injections": "injections"}
        names |= {"sheet": SHEET_CSV, "page to read from": SHEET_PAGE, "key": SHEET_KEY}
        rendered = render(
            page.audit_page(
                self.config,
                shown,
                self._passed(figures),
                run=self.source.uri,
                coverage=self.source.coverage.to_json(),
                warnings=warnings,
                paths={name: f"{root}/{path}" for name, path in names.items()},
                config_hash=self.digest,
                command=command_line(),
            )
        )
        result = {
            "what": self.config.what,
            "run": self.source.uri,
            "run_configuration": self.source.manifest["configuration"],
            "configuration": self.digest,
            "versions": {"raymedlt": __version__},
            "coverage": self.source.coverage.to_json(),
            "warnings": warnings,
            "parts": shown,
        }
        entries += [
            self.storage.write_bytes(PAGE, rendered.encode()),
            self.storage.write_bytes(RESULT, json.dumps(result, indent=1).encode()),
            self.storage.write_bytes("config.yaml", to_yaml(self.config).encode()),
            self.storage.write_bytes("README.md", _card(self.source.uri).encode()),
        ]
        files = [entry.to_json() for entry in [*self.ledger.manifest(), *entries]]
        manifest = {"configuration": self.digest, "versions": result["versions"], "files": files}
        self.storage.write_bytes(MANIFEST, json.dumps(manifest, indent=1).encode())

    def _passed(self, figures: dict[str, dict[str, Any]]) -> pa.Table:
        if "errors_refused" not in figures.get(page.INJECTION, {}):
            return INJECTIONS.empty_table()
        return parts.passed_errors(self.storage.read_folder("injections"))


def _card(run: str) -> str:
    return f"""# Audit of an enrichment run

Made by raymedlt {__version__} from {run}. See {PAGE}; the figures are in {RESULT}.

`recovery`, `contradictions`, `injections` and `verdicts` are tables of single cases. `{SHEET_CSV}` and `{SHEET_PAGE}`
are for two readers, `{SHEET_KEY}` is not. All of it holds report text and is as private as the reports.
"""
