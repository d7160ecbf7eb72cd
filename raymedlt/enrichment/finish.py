"""The end of a run: counts that must agree, and the files that a person opens: page, card, configuration, manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pyarrow as pa

from raymedlt import __version__
from raymedlt.again import command_line
from raymedlt.config import EnrichConfig, config_hash, to_yaml
from raymedlt.embedding.encoder import PrecisionChoice
from raymedlt.enrichment.knowledge import Knowledge, SectionFit
from raymedlt.enrichment.stages import DUPLICATE
from raymedlt.errors import ConsistencyError, InputError
from raymedlt.ledger import FOLDER, Ledger
from raymedlt.reports.phi import in_words
from raymedlt.reports.readers import Unit
from raymedlt.schema import ADDITIONS, ENRICHED, REFUSALS, REJECTED
from raymedlt.storage import FileEntry, Storage

TABLES = ("enriched", "additions", "refusals", "sentences", "clusters", "edges", "rejected")
START_UP = ("load encoder", "start Ray")
_SHOWN = {"enriched": ENRICHED, "additions": ADDITIONS, "refusals": REFUSALS, "rejected": REJECTED}
_ROWS_SHOWN = 50_000  # the page of a larger run takes its examples from the first rows
_PACKAGES = (
    "raymedlt",
    "torch",
    "transformers",
    "faiss-cpu",
    "faiss-gpu",
    "hdbscan",
    "pyarrow",
    "numpy",
    "scipy",
    "ray",
)


@dataclass(frozen=True)
class Outcome:
    """All that the page and the card say."""

    config: EnrichConfig
    read: dict[str, Any]
    arranged: dict[str, Any]
    written: dict[str, Any]
    fits: list[SectionFit]
    knowledge: Knowledge
    precision: PrecisionChoice
    timings: dict[str, float]
    seconds: float
    workers: int
    where: str


def total(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Sum of the shards' summaries, key by key; nested counts are summed by name."""
    result: dict[str, Any] = {}
    for summary in summaries.values():
        for key, value in summary.items():
            if isinstance(value, Mapping):
                inner = result.setdefault(key, {})
                for name, count in value.items():
                    inner[name] = inner.get(name, 0) + count
            else:
                result[key] = result.get(key, 0) + value
    return {key: dict(sorted(value.items())) if isinstance(value, dict) else value for key, value in result.items()}


def check_phi(read: Mapping[str, Mapping[str, Any]], config: EnrichConfig) -> None:
    """No signs of patients or staff in the texts, where the configuration asks for it.

    Raises:
        InputError: there are; the message holds kinds and counts.
    """
    signs = total(read).get("phi")
    if signs and config.reports.phi == "refuse":
        raise InputError(
            f"texts hold signs of patients or staff (reports by kind: {in_words(signs)})",
            "de-identified reports (--reports.phi refuse)",
            "de-identify the source, or accept what was found with --reports.phi warn",
        )


def check_rows(
    read: Mapping[str, Mapping[str, Any]], arranged: Mapping[str, Mapping[str, Any]], config: EnrichConfig
) -> None:
    """Rows read = reports kept + rows rejected, and not too many of these.

    Raises:
        ConsistencyError: a row was lost or doubled.
        InputError: more rejected rows than `--max_rejected` allows.
    """
    rows, kept = total(read), total(arranged)
    rejected = dict(rows["rejected"])
    if kept.get("rejected"):
        rejected[DUPLICATE] = kept["rejected"][DUPLICATE]
    count = sum(rejected.values())
    if rows["rows"] != kept["reports"] + count:
        raise ConsistencyError(
            f"{rows['rows']} rows read, but {kept['reports']} kept and {count} rejected", "equal numbers", "--restart"
        )
    if config.max_rejected is not None and count > config.max_rejected:
        reasons = "; ".join(f"{number} x {reason}" for reason, number in sorted(rejected.items()))
        raise InputError(
            f"{count} rows were rejected: {reasons}",
            f"at most {config.max_rejected} (--max_rejected)",
            "see the table `rejected`, mend the source, or allow more",
        )


def check_counts(arranged: Mapping[str, Mapping[str, Any]], written: Mapping[str, Mapping[str, Any]]) -> None:
    """Reports kept = reports enriched + unchanged.

    Raises:
        ConsistencyError: they differ.
    """
    kept, done = total(arranged), total(written)
    out = done["enriched"] + sum(done["unchanged"].values())
    if not kept["reports"] == done["reports"] == out:
        raise ConsistencyError(
            f"{kept['reports']} reports kept, {done['reports']} looked at, {out} enriched or unchanged",
            "equal numbers",
            "--restart",
        )


def rejected_reasons(outcome: Outcome) -> dict[str, int]:
    """Rejected rows by reason."""
    reasons = dict(outcome.read["rejected"])
    for reason, count in outcome.arranged.get("rejected", {}).items():
        reasons[reason] = reasons.get(reason, 0) + count
    return reasons


def warnings_of(outcome: Outcome) -> list[str]:
    """What a person should know before using the result."""
    found = []
    rejected = sum(rejected_reasons(outcome).values())
    if rejected:
        found.append(f"{rejected:,} rows were rejected; their reasons are in the table `rejected`.")
    if outcome.read.get("phi") and outcome.config.reports.phi == "warn":
        found.append(
            f"The texts may name patients or staff (reports by kind: {in_words(outcome.read['phi'])}). They stand in"
            " the tables as they are; --reports.phi refuse ends such a run."
        )
    for fit in outcome.fits:
        certificate = fit.clustering.certificate
        found += [f"Clusters of {fit.section.name}: {shortcoming}." for shortcoming in certificate.shortcomings()]
    if outcome.written["cut_off"]:
        found.append(
            f"{outcome.written['cut_off']:,} reports drew from a cut list of valid sets (writing.max_cliques reached)."
        )
    if not outcome.knowledge.policy.guard:
        found.append("The policy 'paper' has no guard: additions may contradict their reports.")
    if outcome.config.control != "semantic":
        found.append(f"This is the control '{outcome.config.control}', not an enrichment to train on.")
    if not outcome.knowledge.addable:
        found.append("No cluster may be added: too few normal sentences that repeat.")
    return found


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["raymedlt"] = __version__
    return found


def write_all(storage: Storage, ledger: Ledger, outcome: Outcome) -> list[FileEntry]:
    """Write page, card, configuration and manifest; returns their entries."""
    from raymedlt.enrichment.page import enrichment_page
    from raymedlt.runreport.page import render

    page = enrichment_page(
        config=outcome.config,
        counts={
            "rows_read": outcome.read["rows"],
            "rejected": rejected_reasons(outcome),
            "with_findings": outcome.arranged["with_findings"],
            "with_impression": outcome.arranged["with_impression"],
        },
        summary=outcome.written,
        **{name: examples(storage, name, _ROWS_SHOWN, schema) for name, schema in _SHOWN.items()},
        sentences=storage.read_folder("sentences"),
        clusters=storage.read_folder("clusters"),
        edges=storage.read_folder("edges"),
        vectors={fit.section.name: fit.vectors for fit in outcome.fits},
        certificates={fit.section.name: fit.clustering.certificate for fit in outcome.fits},
        clusterings={fit.section.name: fit.clustering for fit in outcome.fits},
        timings=timings_of(outcome)["work"],
        startup_seconds=sum(timings_of(outcome)["start_up"].values()),
        precision=f"{outcome.precision.precision}: {outcome.precision.reason}",
        warnings=warnings_of(outcome),
        paths={name: f"{storage.uri.rstrip('/')}/{name}" for name in TABLES},
        command=command_line(),
        about=f"{outcome.config.reports.path or 'The packaged reports'} ({outcome.config.reports.format}), "
        f"{outcome.seconds:.0f} s in this run, {outcome.workers} workers, {outcome.where}.",
    )
    entries = [
        storage.write_bytes("report.html", render(page).encode()),
        storage.write_bytes("README.md", card(outcome).encode()),
        storage.write_bytes("config.yaml", to_yaml(outcome.config).encode()),
        storage.write_bytes("timings.json", json.dumps(timings_of(outcome), indent=1).encode()),
    ]
    manifest = {
        "configuration": config_hash(outcome.config),
        "versions": versions(),
        "files": [entry.to_json() for entry in [*ledger.manifest(), *entries]],
    }
    entries.append(storage.write_bytes("manifest.json", json.dumps(manifest, indent=1).encode()))
    return entries


def timings_of(outcome: Outcome) -> dict[str, Any]:
    """Seconds of this run; start-up (loading the encoder, starting Ray) is what does not grow with the data."""
    start_up = {name: outcome.timings[name] for name in START_UP if name in outcome.timings}
    work = {name: seconds for name, seconds in outcome.timings.items() if name not in START_UP}
    return {
        "start_up": start_up,
        "work": work,
        "seconds_before_the_page_was_written": outcome.seconds,
    }


def card(outcome: Outcome) -> str:
    """The data set's card; its header makes `datasets.load_dataset(FOLDER)` find the tables."""
    header = "".join(
        f"- config_name: {name}\n  data_files: {name}/*.parquet\n" + ("  default: true\n" if name == "enriched" else "")
        for name in TABLES
        if name != "rejected" or rejected_reasons(outcome)
    )
    written, arranged = outcome.written, outcome.arranged
    share = written["enriched"] / max(written["with_findings"], 1)
    return f"""---
configs:
{header}---

# Enriched radiology reports

Made by raymedlt {__version__} (configuration {config_hash(outcome.config)}).

{arranged["reports"]:,} reports; {written["enriched"]:,} of {written["with_findings"]:,} training reports with findings
({share:.1%}) were given additions. `enriched` holds every report, `findings` as it was and `enriched_findings` with the
additions behind it: `enriched_findings[:len(findings)] == findings`. `additions` says for each added sentence where it
comes from and what vouches for it; `refusals` what the guard turned down. See report.html.

Policy: {outcome.config.policy}. Control: {outcome.config.control}. Variants: {outcome.config.variants}.

The texts are as private as the reports they were made from, and stand under the same licence. The additions state what
is usual beside a report's own findings; nobody looked at the images. Not for diagnosis.

The folders `_work` and `_ledger` let the same command go on where a run stopped. They may be deleted when the run is
done and will not be repeated. Afterwards the folder can only be read; a new run needs another `--output`.
"""


def description(config: EnrichConfig, units: list[Unit], storage: Storage, workers: int) -> str:
    """The text of `--describe`."""
    hints = [unit.rows_hint for unit in units]
    rows = (
        f"{sum(h for h in hints if h is not None):,} rows"
        if all(h is not None for h in hints)
        else "rows not counted before reading"
    )
    done, model = _done(storage), config.embedding.model or "packaged all-MiniLM-L6-v2"
    steps: Iterable[tuple[str, str]] = (
        ("read", f"{len(units)} {'piece' if len(units) == 1 else 'pieces'} of {config.reports.format}, {rows}"),
        ("arrange", f"sort by report id, {config.writing.shard_reports:,} reports per shard; split into sentences"),
        ("embed", f"distinct sentences, {config.embedding.shard_sentences:,} per shard, {model}"),
        ("cluster", f"{config.clustering.method}, findings and impression apart"),
        ("learn", f"signs, co-occurrence graph; policy {config.policy}"),
        ("write", f"{config.variants} variant(s) per training report; control {config.control}"),
        ("finish", "page, card, manifest"),
    )  # fmt: skip
    lines = [
        "raymedlt enrich: what would be done (nothing was run)",
        "",
        f"source     {config.reports.path or 'packaged ' + config.reports.format} ({config.reports.format})",
        f"output     {storage.uri}",
        f"resources  {workers} workers; Ray from {config.ray_from:,} distinct sentences on",
        f"hash       {config_hash(config)}",
        "",
        *(f"{name:<10} {text}" + (f"  [{done[name]} shards done]" if name in done else "") for name, text in steps),
        "",
        "tables     " + ", ".join(f"{name}/" for name in TABLES),
        "models     model/findings, model/impression",
        "page       report.html",
    ]
    return "\n".join(lines)


def _done(storage: Storage) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in storage.list_files(FOLDER):
        parts = name.split("/")
        if len(parts) == 3:
            counts[parts[1]] = counts.get(parts[1], 0) + 1
    return counts


def examples(storage: Storage, name: str, rows: int, schema: pa.Schema) -> pa.Table:
    """The first rows of a table folder, without reading more shards than needed; empty where there is none."""
    tables: list[pa.Table] = [schema.empty_table()]
    found = 0
    for file in storage.list_files(name):
        if found >= rows:
            break
        tables.append(storage.read_table(file).cast(schema))
        found += tables[-1].num_rows
    return pa.concat_tables(tables).slice(0, rows)
