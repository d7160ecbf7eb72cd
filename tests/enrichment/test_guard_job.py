"""The job with both second guards on: the same bytes with one thread, two threads and on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from enrichment_world import TRACHEA, common_reports
from nli_world import LABELS, made_up, relabelled, trained

from raymedlt.config import ClusteringConfig, EmbeddingConfig, EnrichConfig, GuardConfig, ReportsConfig, WritingConfig
from raymedlt.enrichment.distributed import run
from raymedlt.errors import ConfigError, RunConflictError
from raymedlt.storage import Storage

REPORTS = 60


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("guarded")
    findings = common_reports(REPORTS - 8) + [f"{key.capitalize()}." for key in TRACHEA * 4]
    ids = [f"r{n:03d}" for n in range(REPORTS)]
    images = [f"i{n:03d}" for n in range(REPORTS)]
    pacsv.write_csv(
        pa.table({"report_id": ids, "findings": findings, "image_ids": images}), folder / "reports.csv"
    )  # fmt: skip
    scores = {"image_id": images, "patient_id": ids, "split": ["train"] * REPORTS, "class": ["Effusion"] * REPORTS}
    scores |= {"label": [None] * REPORTS, "probability": [n / REPORTS for n in range(REPORTS)]}
    calibration = {name: values[:30] for name, values in scores.items()} | {"label": [1.0] * 30}
    calibration["probability"] = [0.3 + n / 100 for n in range(30)]
    pacsv.write_csv(pa.table(scores | {"label": pa.nulls(REPORTS, pa.float64())}), folder / "scores.csv")
    pacsv.write_csv(pa.table(calibration), folder / "calibration.csv")
    guard = GuardConfig(
        nli=trained(folder / "nli", made_up(), steps=150),
        scores=str(folder / "scores.csv"),
        calibration=str(folder / "calibration.csv"),
    )
    return {
        "reports": ReportsConfig(path=str(folder / "reports.csv"), format="csv"),
        "embedding": EmbeddingConfig(precision="float32"),
        "clustering": ClusteringConfig(min_cluster_size=2, min_samples=1),
        "writing": WritingConfig(shard_reports=7),
        "guard": guard,
    }


def test_workers_and_ray_change_nothing(options: dict[str, Any], tmp_path: Path):
    ways: dict[str, dict[str, Any]] = {
        "one": {"workers": 1},
        "two": {"workers": 2},
        "ray": {"workers": 2, "ray_from": 0},
    }
    for name, way in ways.items():
        run(EnrichConfig(**options, **way, output=str(tmp_path / name)))
    one = Storage.of(str(tmp_path / "one"))
    reasons = {reason.split(":")[0] for reason in one.read_folder("refusals")["reason"].to_pylist()}
    assert {"nli", "image"} <= reasons
    additions = one.read_folder("additions")
    assert additions.num_rows > 20
    assert additions["guard_nli"].null_count == 0
    files = {name: _files(tmp_path / name) for name in ways}
    assert len(files["one"]) >= 3 * (REPORTS // 7)
    assert files["one"] == files["two"] == files["ray"]


def _files(output: Path) -> dict[str, bytes]:
    found = {}
    for table in ("enriched", "additions", "refusals"):
        for file in sorted((output / table).glob("*.parquet")):
            found[f"{table}/{file.name}"] = file.read_bytes()
    return found


def test_another_model_in_the_same_folder_is_another_run(options: dict[str, Any], tmp_path: Path):
    guard: GuardConfig = options["guard"]
    folder = tmp_path / "nli"
    relabelled(str(guard.nli), folder, LABELS)
    config = EnrichConfig(**{**options, "guard": GuardConfig(nli=str(folder))}, workers=1, output=str(tmp_path / "run"))
    run(config)
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text() + "\nmore")
    with pytest.raises(RunConflictError):
        run(config)


def test_a_bad_model_ends_the_run_before_any_work(options: dict[str, Any], tmp_path: Path):
    config = EnrichConfig(**{**options, "guard": GuardConfig(nli=str(tmp_path))}, output=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"guard\.nli names no folder"):
        run(config)
    assert not (tmp_path / "run").exists()
