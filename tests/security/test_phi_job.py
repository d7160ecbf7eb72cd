"""jobs/enrich.py and reports that aren't de-identified: it warns with counts, or refuses, and never shows a text."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "jobs"))

from runs import arguments_of, inside, report, write_source

COUNTS = "date in 2, name in 1"


def test_signs_of_patients_are_counted_and_can_be_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [report(number) for number in range(60)]
    rows[3]["findings"] += " Discussed with Dr. Quetzal on 12/31/2019."
    rows[4]["indication"] = "Since March 12, 2019."
    words = arguments_of(write_source(tmp_path / "r.csv", rows), tmp_path / "run")
    assert inside(*words, "--reports.phi", "refuse") == 2
    told = capsys.readouterr().err
    assert f"texts hold signs of patients or staff (reports by kind: {COUNTS})" in told
    assert "Quetzal" not in told
    assert not (tmp_path / "run/enriched").exists()

    assert inside(*words) == 0  # by default it warns; what was read stays read, since the option changes no result
    told = capsys.readouterr().err
    assert "read: already done" in told
    assert f"warning: The texts may name patients or staff (reports by kind: {COUNTS})" in told
    assert "Quetzal" not in told
    assert COUNTS in (tmp_path / "run/report.html").read_text()

    assert inside(*words, "--restart", "--reports.phi", "ignore") == 0
    assert COUNTS not in capsys.readouterr().err + (tmp_path / "run/report.html").read_text()
