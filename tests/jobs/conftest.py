"""Runs that several tests of jobs go on from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from runs import QUICK_FINETUNE, ROOT, environment


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of jobs/finetune.py, started as a user does. Nobody changes it."""
    output = tmp_path_factory.mktemp("finetune") / "run"
    told = subprocess.run(
        [sys.executable, "jobs/finetune.py", *QUICK_FINETUNE, "--output", str(output)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [str(output / "report.html")]
    assert "Traceback" not in told.stderr
    return output
