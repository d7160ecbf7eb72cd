"""Do a run's additions contradict labels that enrichment never saw?

The labels (MeSH codes of OpenI, PadChest's, CheXpert's, NIH's) say what a person or another program found in the study.
An addition contradicts them when it denies a finding that they name (reports/labels.py). Beside it stands the human
floor: the reports' own normal sentences under the same judge, since labels err and reports contradict them too ("the
lungs are clear" beside a code for a granuloma).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raymedlt.enrichment import guard
from raymedlt.enrichment.audit.inputs import read_csv
from raymedlt.enrichment.audit.intervals import Share
from raymedlt.enrichment.evidence import denials
from raymedlt.errors import InputError
from raymedlt.images.label_formats import python_list
from raymedlt.reports.labels import Labelled, checkable, contradicted, findings_of, looked_at, scheme_of
from raymedlt.reports.sentences import sentence_key, split_sentences
from raymedlt.schema import CONTRADICTIONS

ADDITION, HUMAN = "addition", "human"
NO_LABELS = "the reports have no labels, and --labels.path names none"
NO_SCHEME = "the labels are of no known scheme (--labels.format names one)"

LabelLists = Mapping[str, list[str]]  # report id -> its labels


@dataclass
class Tally:
    """Sentences of one source, judged against labels."""

    sentences: int = 0
    checkable: int = 0
    contradicting: int = 0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    denials: Counter[str] = field(default_factory=Counter)  # checkable sentences by denied finding
    wrong: Counter[str] = field(default_factory=Counter)  # contradicting sentences by denied finding

    def to_json(self) -> dict[str, Any]:
        """Counts and shares as plain values."""
        return {
            "sentences": self.sentences,
            "checkable": self.checkable,
            "contradicting": self.contradicting,
            "of_all": Share(self.contradicting, self.sentences).to_json(),
            "of_checkable": Share(self.contradicting, self.checkable).to_json(),
            "by_denied": {
                name: Share(self.wrong[name], count).to_json() for name, count in sorted(self.denials.items())
            },
            "pairs": [[denied, labelled, count] for (denied, labelled), count in _ranked(self.pairs)],
        }


@dataclass(frozen=True)
class Contradictions:
    """Additions and the reports' own sentences under one judge. `table`: schema.CONTRADICTIONS, one row per pair."""

    scheme: str
    reports: int  # with labels
    additions: Tally
    human: Tally
    table: pa.Table

    def figures(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "scheme": self.scheme,
            "reports_with_labels": self.reports,
            "additions": self.additions.to_json(),
            "human_floor": self.human.to_json(),
        }


def judge_additions(
    reports: pa.Table, additions: pa.Table, labels: LabelLists, scheme: str, language: str
) -> Contradictions:
    """Judge additions of any variant, and the reports' own normal findings sentences.

    Args:
        reports: schema.REPORTS. additions: columns of schema.ADDITIONS (`finished.ADDED`), of these reports.
        labels: of each report; a report that is missing here, or has an empty list, is left out.
        scheme: a name of `labels.SCHEMES`.

    O(sentences), each read once.
    """
    named = labelled(labels, scheme)
    rows: dict[str, list[str]] = {name: [] for name in CONTRADICTIONS.names}
    tallies = {ADDITION: Tally(), HUMAN: Tally()}
    judged_reports = 0

    def judge_one(source: str, report: str, sentence: str, key: str) -> None:
        _count(tallies[source], rows, source, report, sentence, key, named[report], scheme, language)

    for report, sentence, key in zip(
        *(additions[name].to_pylist() for name in ("report_id", "sentence", "sentence_key")), strict=True
    ):
        if report in named:
            judge_one(ADDITION, report, sentence, key)
    for report, findings in zip(reports["report_id"].to_pylist(), reports["findings"].to_pylist(), strict=True):
        if report in named:
            judged_reports += 1
            for sentence in split_sentences(findings):
                key = sentence_key(sentence)
                if guard.judged(key, language)[0].sign == "normal":
                    judge_one(HUMAN, report, sentence, key)
    table = pa.table(rows, schema=CONTRADICTIONS)
    return Contradictions(scheme, judged_reports, tallies[ADDITION], tallies[HUMAN], table)


def _count(
    tally: Tally,
    rows: dict[str, list[str]],
    source: str,
    report: str,
    sentence: str,
    key: str,
    labels: frozenset[Labelled],
    scheme: str,
    language: str,
) -> None:
    denied = denials(key, language)
    can_check = {each.finding for each in denied if checkable(each.finding, scheme)}
    found = contradicted(denied, labels)
    tally.sentences += 1
    tally.checkable += bool(can_check)
    tally.contradicting += bool(found)
    tally.denials.update(can_check)
    tally.wrong.update({denial.finding for denial, _ in found})
    pairs = sorted({(denial.finding, label.finding) for denial, label in found})
    tally.pairs.update(pairs)
    for denial, label in pairs:
        for name, value in zip(CONTRADICTIONS.names, (report, source, sentence, denial, label), strict=True):
            rows[name].append(value)


def labelled(labels: LabelLists, scheme: str | None) -> dict[str, frozenset[Labelled]]:
    """What the labels of each report assert; nothing without a scheme."""
    return (
        {report: findings_of(given, scheme) for report, given in labels.items() if looked_at(given, scheme)}
        if scheme
        else {}
    )


def labels_of(reports: pa.Table, path: str | None) -> dict[str, list[str]]:
    """Labels per report id: of the file `path` (CSV), else of the reports' own column; only reports that have some.

    Raises:
        InputError: the file can't be read, lacks its columns, or no row of it belongs to a report.
    """
    ids = reports["report_id"].to_pylist()
    if path is None:
        own = zip(ids, reports["labels"].to_pylist(), strict=True)
        return {report: labels for report, labels in own if labels}
    column, by_name = _label_file(path)
    names = reports[column].to_pylist()
    found = {report: by_name[name] for report, name in zip(ids, names, strict=True) if name in by_name}
    if not found:
        raise InputError(
            f"none of the {len(by_name):,} ids of --labels.path is a {column} of the run",
            "labels of the run's reports",
            "check --labels.path and its id column",
        )
    return {report: labels for report, labels in found.items() if labels}


def scheme_for(labels: LabelLists, wanted: str) -> str | None:
    """The scheme's name: as wanted, or found out from a sample where that is "auto"; None if it can't be told."""
    if wanted != "auto":
        return wanted
    return scheme_of(label for given in list(labels.values())[:5000] for label in given)


def _label_file(path: str) -> tuple[str, dict[str, list[str]]]:
    """The id column, and the labels by id: those of all rows of an id together."""
    names, rows = read_csv(path, "labels.path")
    columns = [column for column in ("report_id", "study_id") if column in names]
    if not columns or "labels" not in names:
        raise InputError(
            f"the file of --labels.path has {len(names)} columns and lacks report_id or study_id, or labels",
            "report_id or study_id, and labels",
            "rename the columns",
        )
    by_name: dict[str, list[str]] = {}
    for row in rows:
        by_name.setdefault(row[columns[0]].strip(), []).extend(_label_list(row["labels"]))
    return columns[0], by_name


def _label_list(cell: str) -> list[str]:
    """ "A|B", or a list as PadChest writes it: "['a', 'b']". A list that can't be read is one label, and unknown."""
    cell = cell.strip()
    if cell.startswith("["):
        labels = python_list(cell)
        return [cell] if labels is None else labels
    return [part.strip() for part in cell.split("|") if part.strip()]


def _ranked(counts: Counter[tuple[str, str]]) -> list[tuple[tuple[str, str], int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
