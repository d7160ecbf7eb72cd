"""Pictures and examples of the enrich job's page: flow of rows, additions, coverage, co-occurrence."""

from __future__ import annotations

import collections
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.reports.sentences import split_sentences
from raymedlt.runreport.figures import ACCENT, QUIET, WARN, bars, columns, flow, heat_map, label, shortened
from raymedlt.runreport.page import Example, Figure, Marked

GRAPH_CLUSTERS = 40
COVERAGE_REPORTS = 5000
NORMAL = "var(--normal)"
TINY_LIFT = 1 / 16  # the colour scale of the co-occurrence picture ends at 1/4 and 4


def row_flow(counts: Mapping[str, Any], summary: Mapping[str, Any]) -> Figure:
    """Where every input row went."""
    rejected = most(counts["rejected"], 6, "other reasons")
    unchanged = dict(summary["unchanged"])
    colours = {"rows read": QUIET, "valid reports": ACCENT, "enriched": NORMAL, "unchanged": QUIET, "rejected": WARN}
    links: list[tuple[str, str, int]] = [
        ("rows read", "valid reports", int(summary["reports"])),
        ("rows read", "rejected", sum(rejected.values())),
        ("valid reports", "enriched", int(summary["enriched"])),
        ("valid reports", "unchanged", sum(unchanged.values())),
    ]
    for added, rows in grouped_additions(summary["added"]).items():
        name = f"{added} sentence{'' if added == '1' else 's'} added"
        links.append(("enriched", name, rows))
        colours[name] = NORMAL
    for reason, rows in unchanged.items():
        # A reason may be the same words as a reason to reject; nodes are named by their words.
        name = reason if reason not in rejected else f"{reason} (kept)"
        links.append(("unchanged", name, rows))
        colours[name] = QUIET
    for reason, rows in rejected.items():
        links.append(("rejected", reason, rows))
        colours[reason] = WARN
    return flow(
        links,
        caption="Every row that was read, from left to right. The width of a band is the number of reports.",
        colours=colours,
        height=120 + 34 * len(links),
    )


def most(counts: Mapping[str, int], longest: int, rest: str) -> dict[str, int]:
    """The commonest reasons first, what is beyond `longest` under the name `rest`."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(ranked[:longest])
    if len(ranked) > longest:
        shown[rest] = sum(number for _, number in ranked[longest:])
    return shown


def grouped_additions(added: Mapping[str, int], last: int = 6) -> dict[str, int]:
    """Reports by number of added sentences in rising order; `last` and more together."""
    grouped: collections.Counter[int] = collections.Counter()
    for number, reports in added.items():
        grouped[min(int(number), last)] += reports
    return {f"{n} or more" if n == last else str(n): grouped[n] for n in sorted(grouped)}


def additions_histogram(summary: Mapping[str, Any]) -> Figure:
    """Reports by number of added sentences, those without any first."""
    bare = int(summary["with_findings"]) - int(summary["enriched"])
    shown = {"0": max(bare, 0), **grouped_additions(summary["added"], last=12)}
    return columns(
        list(shown),
        list(shown.values()),
        caption="Added sentences per training report with findings (first variant).",
        x_title="sentences added",
        y_title="reports",
    )


def coverage_by_length(enriched: pa.Table) -> Figure:
    """Share of training reports with an addition, by the number of sentences of the original findings."""
    enriched = enriched.filter(pc.equal(enriched["split"], "train")).slice(0, COVERAGE_REPORTS)
    reports: collections.Counter[int] = collections.Counter()
    covered: collections.Counter[int] = collections.Counter()
    for findings, status in zip(enriched["findings"].to_pylist(), enriched["status"].to_pylist(), strict=True):
        if length := len(split_sentences(findings)):
            reports[min(length, 12)] += 1
            covered[min(length, 12)] += status == "enriched"
    lengths = sorted(reports)
    return bars(
        ["12 or more sentences" if n == 12 else f"{n} sentence{'' if n == 1 else 's'}" for n in lengths],
        [100 * covered[n] / reports[n] for n in lengths],
        caption=f"Share of reports with an addition, by the length of their findings"
        f" ({sum(reports.values()):,} reports)."
        " A very short report gives little that could vouch for an addition; a long one leaves less unsaid.",
        unit="% of reports enriched",
        hover=[f"{covered[n]:,} of {reports[n]:,} reports with {n} sentences" for n in lengths],
    )


def top_additions(additions: pa.Table, longest: int = 15) -> Figure:
    """Clusters that were added most often, named by their medoid."""
    counts = collections.Counter(zip(additions["cluster_id"].to_pylist(), additions["medoid"].to_pylist(), strict=True))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:longest]
    return bars(
        [medoid for (_, medoid), _ in ranked],
        [number for _, number in ranked],
        caption="The clusters that were added most often, each named by its medoid (its most central sentence).",
        unit="additions",
        hover=[f"{label(medoid, width=56)}<br>cluster {c}: {number:,} additions" for (c, medoid), number in ranked],
        colours=[NORMAL] * len(ranked),
    )


def cooccurrence(clusters: pa.Table, edges: pa.Table) -> Figure | None:
    """Lift of the arcs among the largest clusters of findings; None without arcs."""
    ranked = sorted(clusters.to_pylist(), key=lambda row: (-row["occurrences"], row["cluster_id"]))[:GRAPH_CLUSTERS]
    place = {row["cluster_id"]: number for number, row in enumerate(ranked)}
    arcs = [row for row in edges.to_pylist() if row["source"] in place and row["target"] in place]
    if not arcs:
        return None
    targets = sorted({row["target"] for row in arcs}, key=lambda c: place[c])
    order = {"abnormal": 0, "mixed": 1, "neutral": 2, "normal": 3}
    sources = sorted({row["source"] for row in arcs}, key=lambda c: (order[ranked[place[c]]["sign"]], place[c]))
    row_of, column_of = {c: n for n, c in enumerate(sources)}, {c: n for n, c in enumerate(targets)}
    values: list[list[float | None]] = [[None] * len(targets) for _ in sources]
    hover = [[""] * len(targets) for _ in sources]
    for arc in arcs:
        row, column = row_of[arc["source"]], column_of[arc["target"]]
        values[row][column] = round(math.log2(max(arc["lift"], TINY_LIFT)), 3)
        source, target = ranked[place[arc["source"]]], ranked[place[arc["target"]]]
        hover[row][column] = (
            f"<b>{label(source['medoid'], width=56)}</b> ({source['sign']})<br>→ "
            f"<b>{label(target['medoid'], width=56)}</b><br>"
            f"together in {arc['support']:,} studies · confidence {arc['confidence']:.0%}<br>"
            f"lift {arc['lift']:.2f}, at least {arc['lift_lower']:.2f} (95 %) · opposite stated in {arc['opposite']:,}"
        )
    return heat_map(
        values,
        [f"{ranked[place[c]]['medoid']}" for c in sources],
        [ranked[place[c]]["medoid"] for c in targets],
        hover,
        caption="Rows: what a report says (abnormal clusters first). Columns: normal statements that may be added."
        " Colour: lift, how many times more often the two stand in one study than chance would have it. An empty"
        " field is a pair seen too rarely together to vouch for an addition.",
        ticks={-2.0: "¼ ×", -1.0: "½ ×", 0.0: "chance", 1.0: "2 ×", 2.0: "4 ×"},
        limit=2.0,
    )


def spread_over(groups: Mapping[Any, Sequence[Any]], total: int) -> list[Any]:
    """Up to `total` items, one from each group in turn, groups in rising order."""
    chosen: list[Any] = []
    depth = 0
    while len(chosen) < total and any(len(group) > depth for group in groups.values()):
        chosen += [groups[key][depth] for key in sorted(groups) if len(groups[key]) > depth][: total - len(chosen)]
        depth += 1
    return chosen


def scattered(report_id: str) -> str:
    """A sort key that is unrelated to the order of the ids and the same on every machine."""
    return hashlib.sha256(report_id.encode()).hexdigest()


def addition_examples(enriched: pa.Table, additions: pa.Table, clusters: pa.Table, total: int = 12) -> list[Example]:
    """Enriched reports, chosen over all numbers of additions, fewest first."""
    changed = enriched.filter(pc.and_(pc.equal(enriched["status"], "enriched"), pc.greater(enriched["added"], 0)))
    groups: dict[int, list[str]] = collections.defaultdict(list)
    for report_id, added in zip(changed["report_id"].to_pylist(), changed["added"].to_pylist(), strict=True):
        groups[added].append(report_id)
    chosen = spread_over({added: sorted(ids, key=scattered) for added, ids in groups.items()}, total)
    medoid = dict(zip(clusters["cluster_id"].to_pylist(), clusters["medoid"].to_pylist(), strict=True))
    wanted = pa.array(chosen, pa.string())
    rows: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in additions.filter(pc.is_in(additions["report_id"], wanted)).to_pylist():
        rows[row["report_id"]].append(row)
    texts = (
        changed.filter(pc.is_in(changed["report_id"], wanted)).select(["report_id", "findings", "added"]).to_pylist()
    )
    texts.sort(key=lambda row: (row["added"], chosen.index(row["report_id"])))
    return [
        Example(
            title=f"Report {row['report_id']} · {row['added']} added",
            original=row["findings"],
            marked=[
                Marked(text=added["sentence"], tag=added["sign"], evidence=evidence(added, medoid))
                for added in sorted(rows[row["report_id"]], key=lambda added: int(added["position"]))
            ],
        )
        for row in texts
    ]


def evidence(row: Mapping[str, Any], medoid: Mapping[int, str]) -> list[tuple[str, str]]:
    """Why a sentence was added, in words (a row of schema.ADDITIONS)."""
    witnesses = [shortened(medoid.get(c, f"cluster {c}"), 60) for c in row["witness"]]
    return [
        ("Sign", f"{row['sign']} (purity {row['purity']:.0%}), guard {row['guard']}"),
        ("Support", f"{row['support']:,} studies for the weakest link" if row["support"] else "none on record"),
        ("Confidence", f"{row['confidence_min']:.0%} at least"),
        ("Lift", f"{row['lift_lower']:.2f} at least (lower 95 % bound)"),
        ("Cluster", f"{row['cluster_id']}: {shortened(row['medoid'], 80)}"),
        ("Vouched for by", " · ".join(witnesses) or "nothing"),
    ]


def refusal_examples(enriched: pa.Table, refusals: pa.Table, clusters: pa.Table, total: int = 6) -> list[Example]:
    """Refusals beside the reports that caused them: kinds of reason in turn, another finding and report each time."""
    reports = dict(zip(enriched["report_id"].to_pylist(), enriched["findings"].to_pylist(), strict=True))
    medoid = dict(zip(clusters["cluster_id"].to_pylist(), clusters["medoid"].to_pylist(), strict=True))
    by_reason: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in refusals.to_pylist():
        if row["report_id"] in reports:
            by_reason[row["reason"]].append(row)
    used: set[str] = set()
    groups: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for reason in sorted(by_reason, key=lambda reason: (-len(by_reason[reason]), reason)):
        rows = sorted(by_reason[reason], key=lambda row: (scattered(row["report_id"]), row["cluster_id"]))
        fresh = next((row for row in rows if row["report_id"] not in used), None)
        if fresh:
            used.add(fresh["report_id"])
            groups[reason.split(":")[0]].append(fresh)
    return [
        Example(
            title=f"Report {row['report_id']}",
            original=reports[row["report_id"]],
            marked=[
                Marked(
                    text=medoid.get(row["cluster_id"], row["sentence_key"]),
                    tag=in_words(row["reason"]),
                    evidence=[("Refused", in_words(row["reason"])), ("Cluster", str(row["cluster_id"]))],
                    refused=True,
                )
            ],
        )
        for row in spread_over(groups, total)
    ]


def in_words(reason: str) -> str:
    """A machine-readable reason of the guard as a phrase."""
    kind, _, what = reason.partition(":")
    thing = what.replace("_", " ")
    phrases = {
        "contradicts": f"contradicts the report: {thing}",
        "restates": f"the report already says it: no {thing}",
        "unread": f"the report says something unreadable about it: {thing}",
        "view": f"the study has no {thing} view",
        "image": f"the image classifier sees {thing}",
        "nli": "the language model sees a contradiction",
    }
    return phrases.get(kind, reason.replace("_", " ").replace(":", ": "))
