"""Importing the package is cheap: heavy libraries stay out until a room needs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "pyarrow", "numpy", "transformers", "faiss", "sklearn", "plotly", "jsonargparse")


def loaded_by(statement: str) -> tuple[float, set[str]]:
    """Seconds that `statement` takes in a fresh interpreter, and the heavy modules it leaves loaded."""
    program = (
        f"import sys, time, json\nstart = time.perf_counter()\n{statement}\n"
        "seconds = time.perf_counter() - start\n"
        f"print(json.dumps([seconds, sorted(set({HEAVY!r}) & set(sys.modules))]))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    seconds, modules = json.loads(run.stdout.splitlines()[-1])
    return seconds, set(modules)


def test_import_raymedlt_is_light():
    runs = [loaded_by("import raymedlt") for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < 0.3
    assert runs[0][1] == set()


def test_the_probe_sees_a_heavy_import():
    assert "numpy" in loaded_by("import numpy")[1]


def test_version_and_errors_need_nothing_heavy():
    assert loaded_by("import raymedlt, raymedlt.errors, raymedlt.config; assert raymedlt.__version__")[1] == set()


def test_enrichment_package_waits_with_its_heavy_half():
    assert loaded_by("import raymedlt.enrichment; assert 'enrich' in raymedlt.enrichment.__all__")[1] == set()


def test_enrichment_package_has_no_other_names():
    import raymedlt.enrichment

    with pytest.raises(AttributeError, match="no_such_name"):
        raymedlt.enrichment.no_such_name  # noqa: B018
