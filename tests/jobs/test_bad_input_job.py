"""What is wrong with real sources, seen from the job: one clear message and exit code 2, or a rejected row."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
from runs import COLUMNS, NORMAL, SENTINEL, arguments_of, digests, inside, report, table, tables_of, write_source

HEADER = ",".join(COLUMNS).encode() + b"\n"


# Sources that can't be used at all


@pytest.mark.parametrize(
    ("name", "format", "data", "message"),
    [
        ("none.csv", "csv", None, "no file or folder"),
        ("empty.csv", "csv", b"", "'empty.csv' is empty"),
        ("header.csv", "csv", HEADER, "'header.csv' has a header and no rows"),
        ("wrong.csv", "csv", b"uid,Findings_Text\n1,A zebrafinch.\n", "--reports.columns"),
        (
            "broken.csv.gz",
            "csv",
            gzip.compress(HEADER + b"1,A zebrafinch." * 999, mtime=0)[:-20],
            "can't be read to its end",
        ),
        ("empty.jsonl", "jsonl", b"\n", "'empty.jsonl' is empty"),
        ("no.parquet", "parquet", b"PAR1 A zebrafinch.", "'no.parquet' can't be read"),
        ("empty.xml", "openi", b"", "'empty.xml' is empty"),
        ("broken.tgz", "openi", b"A zebrafinch.", "can't be read to its end"),
    ],
)
def test_an_unusable_source_is_one_message(
    name: str, format: str, data: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert inside(*arguments_of(tmp_path / name, tmp_path / "run", format=format)) == 2
    told = capsys.readouterr()
    errors = [line for line in told.err.splitlines() if "Error" in line]
    assert len(errors) == 1
    assert errors[0].startswith("InputError: ")
    assert message in errors[0]
    assert "To fix: " in errors[0]
    assert "Traceback" not in told.err
    assert SENTINEL not in told.err + told.out
    assert told.out == ""
    assert not (tmp_path / "run/report.html").exists()


def test_nothing_but_bad_xml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/1.xml").write_bytes(b"<eCitation><uId id='1'")
    (tmp_path / "source/2.xml").write_bytes(b"<eCitation><uId id='2'/></eCitation>")
    assert inside(*arguments_of(tmp_path / "source", tmp_path / "run", format="openi")) == 2
    told = capsys.readouterr().err
    assert "no valid report among the 2 rows read" in told
    assert "/rejected" in told
    assert sorted(table(tmp_path / "run", "rejected")["reason"].to_pylist()) == [
        "XML cannot be parsed", "no findings and no impression",
    ]  # fmt: skip


def test_no_training_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_source(tmp_path / "r.csv", [report(number) | {"split": "test"} for number in range(10)])
    assert inside(*arguments_of(source, tmp_path / "run")) == 2
    assert "10 valid reports, but none of the training split has a sentence" in capsys.readouterr().err


# Sources with bad rows among good ones


def messy(path: Path) -> Path:
    """120 good reports, four with odd but harmless cells, seven bad rows and a second copy of a good one."""
    write_source(path, map(report, range(120)))
    extra = [
        b'formula-1,,,train,"=HYPERLINK(""http://x.test"",""y"")","+1+1",-2,@a.png\n',
        b"=cmd|' /C calc'!A0,,,train,Lungs are clear.,@SUM(A1),,\n",
        b"impression-only,,,train,,No acute disease.,,\n",
        b"odd-image,,,train,Lungs are clear.,,,a..b/../c.png\n",
        b"up,,,train,A zebrafinch.,,,../../etc/passwd\n",
        b"root,,,train,A zebrafinch.,,,/etc/passwd\n",
        b"nul,,,train,A zebra\x00finch.,,,\n",
        b"latin,,,train,A z\xe9brafinch.,,,\n",
        b"textless,,,train,,,A zebrafinch.,\n",
        b"long,,,train," + b"A zebrafinch. " * 75_000 + b",,,\n",
        b"short,,,train,A zebrafinch.\n",
        b"r00003,,,train,A second copy.,,,\n",
    ]
    with path.open("ab") as file:
        file.writelines(extra)
    return path


REASONS = {
    "image path leaves its root": 2,
    "text holds NUL bytes": 1,
    "not UTF-8": 1,
    "no findings and no impression": 1,
    "longer than 100000 characters": 1,
    "has 5 cells, expected 8": 1,
    "report_id is given twice": 1,
}


def test_bad_rows_are_rejected_with_reasons_and_never_stop_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = messy(tmp_path / "messy.csv"), tmp_path / "run"
    assert inside(*arguments_of(source, output, "--max_rejected", "7")) == 2
    told = capsys.readouterr().err
    assert "8 rows were rejected" in told
    for reason, count in REASONS.items():
        assert f"{count} x {reason}" in told
    assert not (output / "report.html").exists()

    assert inside(*arguments_of(source, output, "--max_rejected", "8")) == 0  # the limit is no part of the result
    told = capsys.readouterr().err
    assert "read: already done" in told
    assert SENTINEL not in told
    rejected, enriched = table(output, "rejected"), table(output, "enriched")
    assert {reason: rejected["reason"].to_pylist().count(reason) for reason in rejected["reason"].to_pylist()} == (
        REASONS
    )
    assert set(rejected["source"].to_pylist()) == {"messy.csv"}
    assert (enriched.num_rows, rejected.num_rows) == (124, 8)  # 132 rows in
    assert "8 rows were rejected" in (output / "report.html").read_text()


def test_formulas_stay_what_the_report_says(tmp_path: Path) -> None:
    """Cells that a spreadsheet would run stay text in Parquet; nothing a spreadsheet opens is written."""
    output = tmp_path / "run"
    assert inside(*arguments_of(messy(tmp_path / "messy.csv"), output)) == 0
    rows = {row["report_id"]: row for row in table(output, "enriched").to_pylist()}
    formula = rows["formula-1"]
    assert formula["findings"] == '=HYPERLINK("http://x.test","y")'
    assert formula["enriched_findings"].startswith(formula["findings"])
    assert (formula["impression"], formula["indication"], formula["image_ids"]) == ("+1+1", "-2", ["@a.png"])
    assert "=cmd|' /C calc'!A0" in rows
    assert (rows["impression-only"]["status"], rows["impression-only"]["why_unchanged"]) == ("unchanged", "no findings")
    assert rows["odd-image"]["image_ids"] == ["a..b/../c.png"]
    suffixes = {Path(name).suffix for name in digests(output) if not name.startswith("_ledger/")}
    assert suffixes <= {".parquet", ".json", ".html", ".md", ".yaml", ".safetensors"}
    page = (output / "report.html").read_text()
    assert "<a href='http://x.test'" not in page
    assert "http://x.test" not in page.replace("&#34;http://x.test&#34;", "").replace('\\"http://x.test\\"', "")


def test_of_two_rows_with_one_id_the_same_stays_whatever_the_order(tmp_path: Path) -> None:
    rows = [report(number) for number in range(60)]
    rows.append(rows[3] | {"findings": "The bones are normal."})
    outputs = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        (tmp_path / name).mkdir()
        source = write_source(tmp_path / name / "r.csv", order)
        outputs.append(tmp_path / name / "run")
        assert inside(*arguments_of(source, outputs[-1])) == 0
        assert table(outputs[-1], "rejected")["reason"].to_pylist() == ["report_id is given twice"]
    assert tables_of(outputs[0], ["enriched", "additions"]) == tables_of(outputs[1], ["enriched", "additions"])


def test_reports_without_findings(tmp_path: Path) -> None:
    source = write_source(tmp_path / "r.csv", [report(number) | {"findings": ""} for number in range(40)])
    assert inside(*arguments_of(source, tmp_path / "run")) == 0
    enriched = table(tmp_path / "run", "enriched")
    assert enriched["status"].to_pylist() == ["unchanged"] * 40
    assert table(tmp_path / "run", "additions").num_rows == 0


def test_a_report_of_a_megabyte_is_read_if_allowed(tmp_path: Path) -> None:
    """One of many sentences; and one of 50,000 characters without a full stop."""
    rows = [report(number) for number in range(40)]
    rows.append(report(40) | {"report_id": "sentences", "findings": " ".join(NORMAL["heart"]) * 3_000})
    rows.append(report(41) | {"report_id": "endless", "findings": "clear lungs and " * 3_000})
    began = time.monotonic()
    words = arguments_of(write_source(tmp_path / "r.csv", rows), tmp_path / "run", "--reports.max_chars", "2000000")
    assert inside(*words) == 0
    assert time.monotonic() - began < 60
    enriched = {row["report_id"]: row for row in table(tmp_path / "run", "enriched").to_pylist()}
    assert len(enriched["sentences"]["findings"]) > 900_000
    assert len(enriched["endless"]["findings"]) > 45_000
    for row in enriched.values():
        assert row["enriched_findings"].startswith(row["findings"])


def test_spanish_reports_are_enriched(tmp_path: Path) -> None:
    """PadChest's layout, stemmed Spanish: half of the reports say nothing of the heart, and get it said."""
    texts = [
        "sin derram pleural", "no se observ derram pleural", "sin evident derram pleural", "no hay derram pleural",
        "derram pleural ausent", "siluet cardiac normal", "siluet cardiac de taman normal", "corazon normal",
        "corazon de taman normal", "taman cardiac normal", "taman cardiac dentr de limit normal",
    ]  # fmt: skip
    header = ["", "ImageID", "StudyID", "PatientID", "Projection", "ReportID", "Report", "Labels"]
    rows = [
        [
            str(i),
            f"{i}.png",
            f"s{i}",
            f"p{i}",
            "PA",
            f"r{i}",
            f" {texts[i % 5]} . {texts[5 + i % 6]} ." if i % 2 else f" {texts[i % 5]} .",
            "['normal']",
        ]
        for i in range(120)
    ]
    source = write_source(tmp_path / "padchest.csv", [dict(zip(header, row, strict=True)) for row in rows], header)
    clusters = ("--clustering.method", "kmeans", "--clustering.clusters", "3")
    assert inside(*arguments_of(source, tmp_path / "run", *clusters, format="padchest")) == 0
    enriched = table(tmp_path / "run", "enriched")
    assert enriched["language"].to_pylist() == ["es"] * 120
    assert {row["status"] for row in enriched.to_pylist() if len(row["findings"]) < 35} == {"enriched"}
    assert set(table(tmp_path / "run", "additions")["sign"].to_pylist()) == {"normal"}
    assert set(table(tmp_path / "run", "clusters")["sign"].to_pylist()) == {"normal"}
