"""The parts of the audit's page, each with its figures, their intervals, and a few words on what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.enrichment.audit.errors import KINDS
from raymedlt.enrichment.audit.injection import ERRORS_REFUSED_BAR, GOOD_KINDS, GOOD_REFUSED_BAR
from raymedlt.enrichment.audit.intervals import Share, shown
from raymedlt.enrichment.audit.sheet import READERS, VERDICTS
from raymedlt.runreport.figures import WARN, bars
from raymedlt.runreport.page import Block, Column, KeyValues, Paragraph, Table

_PASSED_SHOWN = 100

_OUTCOMES = {
    "offered": "its cluster is offered",
    "already said": "the rest of the report says the same",
    "contradicts": "the guard sees a contradiction with the rest",
    "unread": "the rest speaks of the same in words that the guard can't read",
    "view": "it speaks of a view that the study lacks",
    "not linked": "no finding that is left vouches for it, or one speaks against it",
    "rest is noise": "no other sentence of the report is in a cluster",
    "nothing left of the report": "the report had no other sentence (not counted)",
}


def _share(value: Mapping[str, Any]) -> Share:
    return Share.from_json(dict(value))


def in_words(value: Mapping[str, Any]) -> str:
    """A share of `Share.to_json` or an estimate of `Estimate.to_json`."""
    if value["value"] is None:
        return "-"
    return shown(float(value["value"]), float(value["low"]), float(value["high"]))


def _cell(value: Mapping[str, Any]) -> str:
    """The same for a table's cell: on one line."""
    return in_words(value).replace(" ", "\u00a0")


def reader_name(reader: str) -> str:
    """ "reader_1" as "Reader 1"."""
    return reader.replace("_", " ").capitalize()


def percent(value: Mapping[str, Any]) -> str:
    """A share (`Share.to_json`) without its interval: "96.1 %"."""
    return in_words(value).partition(" (")[0]


def interval(value: Mapping[str, Any]) -> str:
    """Its interval: "95 % interval 95.2 to 96.9"; "" of nothing."""
    inside = in_words(value).partition(" (")[2].removesuffix(")")
    return f"95 % interval {inside}" if inside else ""


def bar_verdict(value: Mapping[str, Any], bar: float, *, at_least: bool) -> str:
    """ "met", "met, but the interval reaches below the bar" and so on."""
    if value["value"] is None:
        return "not measured"
    worst = value["low"] if at_least else value["high"]
    sign = 1 if at_least else -1
    if sign * value["value"] < sign * bar:
        return "not met"
    return "met" if sign * worst >= sign * bar else "met, but the interval reaches beyond it"


def injection_verdicts(figures: Mapping[str, Any]) -> tuple[str, str]:
    """Whether the bars for errors and for good sentences are met, in words (figures of a part that was done)."""
    return (
        bar_verdict(figures["errors_refused"], ERRORS_REFUSED_BAR, at_least=True),
        bar_verdict(figures["good_refused"], GOOD_REFUSED_BAR, at_least=False),
    )


def recovery_blocks(figures: Mapping[str, Any]) -> list[Block]:
    """The part "recovery" from its figures (`Recovery.figures`), or why it was left out."""
    if "left_out" in figures:
        return [Paragraph(f"Left out: {figures['left_out']}.")]
    guarded, unguarded = figures["guarded"], figures["unguarded"]
    rows = [
        (
            outcome,
            _OUTCOMES.get(outcome, ""),
            guarded["outcomes"].get(outcome, 0),
            unguarded["outcomes"].get(outcome, 0),
        )
        for outcome in _OUTCOMES
        if outcome in {**guarded["outcomes"], **unguarded["outcomes"]}
    ]
    return [
        Paragraph(
            f"Clusters and graph were learnt again from {figures['fitted']:,} reports; {figures['scored']:,} reports of"
            " other patients were scored. Each normal sentence whose cluster may be added was hidden in turn."
            " Recovered: it is offered back, or it is left out only because the rest of the report says the same."
        ),
        KeyValues(
            [
                ("Recovered, with the guard", in_words(guarded["recovered"]), f"of {guarded['hidden']:,} hidden"),
                ("of these offered back", in_words(guarded["offered"])),
                ("of these already said", in_words(guarded["already_said"])),
                ("Recovered, guard off", in_words(unguarded["recovered"]), f"of {unguarded['hidden']:,} hidden"),
            ]
        ),
        Table(
            caption="What became of the hidden sentences.",
            columns=[
                Column(name="Outcome"),
                Column(name="Meaning", wide=True),
                Column(name="With the guard", numeric=True),
                Column(name="Guard off", numeric=True),
            ],
            rows=rows,
        ),
    ]


def contradiction_blocks(figures: Mapping[str, Any], paths: Mapping[str, str]) -> list[Block]:
    """The part "contradiction" from its figures (`Contradictions.figures`), or why it was left out."""
    if "left_out" in figures:
        return [Paragraph(f"Left out: {figures['left_out']}.")]
    added, human = figures["additions"], figures["human_floor"]
    names = [name for name in added["by_denied"] if _share(added["by_denied"][name]).whole]
    rows = []
    for name in sorted(names, key=lambda n: (-added["by_denied"][n]["part"], -added["by_denied"][n]["whole"], n)):
        mine, theirs = added["by_denied"][name], human["by_denied"].get(name, Share(0, 0).to_json())
        rows.append((name, mine["whole"], mine["part"], _cell(mine), theirs["whole"], _cell(theirs)))
    return [
        Paragraph(
            f"Labels of the scheme {figures['scheme']} for {figures['reports_with_labels']:,} reports, which enrichment"
            " never reads. An addition contradicts them when it denies a finding that they name. The human floor is the"
            " reports' own normal sentences under the same judge: labels err, and people write 'the lungs are clear'"
            " beside a granuloma."
        ),
        KeyValues(
            [
                (
                    "Additions against labels, of checkable",
                    in_words(added["of_checkable"]),
                    _counts(added, "checkable"),
                ),
                ("Additions against labels, of all", in_words(added["of_all"]), _counts(added, "sentences")),
                ("Human floor, of checkable", in_words(human["of_checkable"]), _counts(human, "checkable")),
                ("Human floor, of all", in_words(human["of_all"]), _counts(human, "sentences")),
            ]
        ),
        Table(
            caption="By what the sentence denies.",
            columns=[
                Column(name="Denied finding", wide=True),
                Column(name="Additions", numeric=True),
                Column(name="Against labels", numeric=True),
                Column(name="Share"),
                Column(name="Human sentences", numeric=True),
                Column(name="Share of these"),
            ],
            rows=rows,
            where=paths.get("contradictions", ""),
        ),
        Table(
            caption="The commonest pairs of a denial and a label, among additions.",
            columns=[
                Column(name="Denied", wide=True),
                Column(name="Label", wide=True),
                Column(name="Additions", numeric=True),
            ],
            rows=[tuple(pair) for pair in added["pairs"][:30]],
            total=len(added["pairs"]),
            where=paths.get("contradictions", ""),
        ),
    ]


def _counts(tally: Mapping[str, Any], of: str) -> str:
    return f"{tally['contradicting']:,} of {tally[of]:,}"


def injection_blocks(figures: Mapping[str, Any], passed: pa.Table, paths: Mapping[str, str]) -> list[Block]:
    """The part "injection" from its figures (`Injection.figures`) and what passed, or why it was left out."""
    if "left_out" in figures:
        return [Paragraph(f"Left out: {figures['left_out']}.")]
    errors, good = injection_verdicts(figures)
    by_kind = figures["errors_by_kind"]
    weak = [kind for kind, value in by_kind.items() if value["value"] < ERRORS_REFUSED_BAR]
    return [
        Paragraph(
            f"{figures['reports']:,} reports were offered known errors, and normal sentences that belong to them, as"
            " the writer offers additions: is the sentence normal, is it fit for any report, does the report contradict"
            " it. The errors are made without the guard: by a table written by hand, in several wordings, and from the"
            " report's own words. No good sentence is contradicted by the report's labels, where it has labels."
        ),
        KeyValues(
            [
                (
                    "Errors refused",
                    in_words(figures["errors_refused"]),
                    f"bar: at least {ERRORS_REFUSED_BAR:.0%}, {errors}"
                    + (f"; below it: {', '.join(weak)}" if weak else "; so is every kind"),
                ),
                (
                    "Good sentences refused",
                    in_words(figures["good_refused"]),
                    f"bar: at most {GOOD_REFUSED_BAR:.0%}, {good}; those that only restate are left out",
                ),
                ("of all good sentences, restating ones too", in_words(figures["good_refused_of_all"])),
                (
                    "Good sentences that only restate",
                    in_words(figures["good_restating"]),
                    "refused because the rest of the report says the same: no loss",
                ),
            ]
        ),
        bars(
            [KINDS[kind] for kind in by_kind],
            [100 * value["value"] for value in by_kind.values()],
            caption="Errors refused, by kind.",
            unit="% refused",
            digits=1,
            hover=[f"{kind}: {in_words(value)}, {value['whole']:,} offers" for kind, value in by_kind.items()],
            name_characters=90,
        ),
        _kinds_table("Errors by kind.", KINDS, by_kind, figures, figures["errors_by_reason"], paths),
        bars(
            [GOOD_KINDS[kind] for kind in figures["good_by_kind"]],
            [100 * (value["value"] or 0) for value in figures["good_by_kind"].values()],
            caption="Good sentences refused, by kind (lower is better).",
            unit="% refused",
            digits=1,
            colours=[WARN] * len(figures["good_by_kind"]),
            hover=[f"{kind}: {in_words(value)}" for kind, value in figures["good_by_kind"].items()],
            name_characters=90,
        ),
        _kinds_table(
            "Good sentences by kind.", GOOD_KINDS, figures["good_by_kind"], figures, figures["good_by_reason"], paths
        ),
        *_passed(passed, paths),
    ]


def _kinds_table(
    caption: str,
    words: Mapping[str, str],
    shares: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Any],
    reasons: Mapping[str, Mapping[str, int]],
    paths: Mapping[str, str],
) -> Table:
    rows = []
    for kind, value in shares.items():
        ranked = sorted(reasons[kind].items(), key=lambda item: (-item[1], item[0]))
        why = ", ".join(f"{name} {count:,}" for name, count in ranked[:3])
        rows.append((words[kind], value["whole"], figures["distinct_sentences"][kind], _cell(value), why))
    return Table(
        caption=caption,
        columns=[
            Column(name="Kind", wide=True),
            Column(name="Offers", numeric=True, hint="For good sentences: those that don't restate"),
            Column(name="Distinct", numeric=True, hint="Distinct sentences among all offers"),
            Column(name="Refused"),
            Column(name="Commonest verdicts", wide=True),
        ],
        rows=rows,
        where=paths.get("injections", ""),
    )


def _passed(passed: pa.Table, paths: Mapping[str, str]) -> list[Block]:
    if not passed.num_rows:
        return [Paragraph("No injected error passed.")]
    rows = passed.group_by(["kind", "finding", "sentence"]).aggregate([([], "count_all"), ("origin", "min")])
    rows = rows.sort_by([("count_all", "descending"), ("kind", "ascending"), ("sentence", "ascending")])
    return [
        Table(
            caption="Errors that the guard let through: what it still has to learn.",
            columns=[
                Column(name="Kind", wide=True),
                Column(name="Finding"),
                Column(name="Offered sentence", wide=True),
                Column(name="The report says", wide=True),
                Column(name="Times", numeric=True),
            ],
            rows=[
                (KINDS[row["kind"]], row["finding"], row["sentence"], row["origin_min"], row["count_all"])
                for row in rows.slice(0, _PASSED_SHOWN).to_pylist()
            ],
            total=rows.num_rows,
            where=paths.get("injections", ""),
        )
    ]


def sheet_blocks(figures: Mapping[str, Any], paths: Mapping[str, str]) -> list[Block]:
    """Where the audit sheet lies and what was drawn for it, or why there is none."""
    if "left_out" in figures:
        return [Paragraph(f"Left out: {figures['left_out']}.")]
    return [
        Paragraph(
            f"{figures['items']:,} additions and {figures['decoys']:,} decoys in random order, for two readers. Give"
            " each reader the sheet and the page to read from, not the key. Then repeat the command with --sheet.read."
        ),
        KeyValues(
            [(name.capitalize(), paths[name]) for name in ("sheet", "page to read from", "key") if name in paths]
        ),
        Table(
            caption="What the sample stands for: bands of clusters by how often they were added.",
            columns=[
                Column(name="Band"),
                Column(name="On the sheet", numeric=True),
                Column(name="Additions in the run", numeric=True),
            ],
            rows=[(band, figures["drawn"].get(band, 0), size) for band, size in figures["strata"].items()],
        ),
    ]


def readers_blocks(figures: Mapping[str, Any]) -> list[Block]:
    """What two readers found (`ReadBack.figures`): shares by stratum, decoys caught, agreement."""
    agreed = figures["agreement"]
    blocks: list[Block] = []
    if figures["cells_rejected"]:
        blocks.append(Paragraph(f"{figures['cells_rejected']:,} cells were rejected; see the table `rejected`."))
    overview: list[tuple[str, Any] | tuple[str, Any, str]] = []
    for reader, found in figures["readers"].items():
        name = reader_name(reader)
        overview.append((f"{name}: additions read", f"{found['additions_read']:,}"))
        overview += [(f"{name}: {verdict}", in_words(found["overall"][verdict])) for verdict in VERDICTS]
        caught = found["decoys_caught"]
        overview.append((f"{name}: decoys caught", in_words(caught), f"{caught['part']} of {caught['whole']}"))
    if agreed["pairs"]:
        kappa = (
            "-" if agreed["kappa"] is None else f"{agreed['kappa']:.2f} ({agreed['low']:.2f} to {agreed['high']:.2f})"
        )
        overview.append(("Same verdict", in_words(agreed["equal"]), f"of {agreed['pairs']:,} additions that both read"))
        overview.append(("Cohen's kappa", kappa, "95 % interval; 0 is chance, 1 is full agreement"))
    blocks += [
        Paragraph("Shares are weighed by the size of each band, with 95 % intervals; decoys are not among them."),
        KeyValues(overview),
    ]
    for what, name in (("by_band", "Band"), ("by_group", "Group")):
        rows = [
            (reader, part, shares[VERDICTS[0]]["whole"], *(_cell(shares[verdict]) for verdict in VERDICTS))
            for reader in READERS
            for part, shares in figures["readers"].get(reader, {}).get(what, {}).items()
        ]
        columns = [Column(name="Reader"), Column(name=name), Column(name="Read", numeric=True)]
        blocks.append(
            Table(
                caption=f"Verdicts by {name.lower()}.",
                columns=[*columns, *(Column(name=verdict.capitalize()) for verdict in VERDICTS)],
                rows=rows,
            )
        )
    return blocks


def passed_errors(injections: pa.Table) -> pa.Table:
    """The rows of schema.INJECTIONS that are errors and passed."""
    return injections.filter(pc.and_(pc.invert(injections["good"]), pc.equal(injections["reason"], "")))
