"""Versions of driver and nodes: what is compared, how it is told, and that nodes really are asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from raymedlt import nodes
from raymedlt.errors import ConfigError, VersionError
from raymedlt.versions import (
    DECIDING,
    DRIVER,
    check_worker,
    differences,
    refuse_differences,
    tell_workers,
    versions_here,
)

ROOT = Path(__file__).resolve().parents[1]
OWN = {"python": "3.11.7", "raymedlt": "0.1.0 (files 00000000)", "torch": "2.14.1", "numpy": "2.4.6"}


def fresh(program: str, *path: Path, cwd: Path | None = None, timeout: float = 120) -> Any:
    """What a program prints as JSON, run in an interpreter of its own that finds packages in `path` first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=timeout,
        env=kept | {"PYTHONPATH": os.pathsep.join(map(str, path))}, cwd=cwd or path[0], check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def installed(folder: Path, name: str, version: str) -> Path:
    """A folder in which a package looks installed."""
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


VERSIONS = "import json; from raymedlt.versions import versions_here; print(json.dumps(versions_here()))"


def test_what_is_pinned_is_what_is_compared() -> None:
    lines = (ROOT / "cluster/constraints.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines if not line.startswith("#")] == list(DECIDING)
    assert set(versions_here()) == {"python", "raymedlt", *DECIDING}, "the tests' environment has all of them"


def test_a_version_is_what_is_installed_without_the_builds_own_part(tmp_path: Path) -> None:
    found = fresh(VERSIONS, installed(tmp_path, "torch", "9.8.7+cu130"), ROOT)
    assert found == versions_here() | {"torch": "9.8.7"}


def test_another_file_is_another_version(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "raymedlt", tmp_path / "raymedlt", ignore=shutil.ignore_patterns("__pycache__"))
    assert fresh(VERSIONS, tmp_path) == versions_here()
    with (tmp_path / "raymedlt/seeds.py").open("a") as file:
        file.write("# changed\n")
    found = fresh(VERSIONS, tmp_path)
    assert differences(versions_here(), found) == [f"raymedlt {versions_here()['raymedlt']} and {found['raymedlt']}"]


def test_equal_nodes_and_missing_packages_pass() -> None:
    lacks = {name: version for name, version in OWN.items() if name != "torch"}
    refuse_differences(OWN, {"a": OWN, "b": lacks, "c": OWN | {"trl": "1.16.0"}})
    refuse_differences(lacks, {"a": OWN})


def test_the_message_names_node_both_versions_and_what_to_do() -> None:
    with pytest.raises(VersionError) as caught:
        refuse_differences(
            OWN, {"10.0.0.1": OWN, "10.0.0.2": OWN | {"torch": "2.13.0"}, "c": OWN | {"numpy": "1.26.0"}}
        )
    told = str(caught.value)
    for part in (
        "node 10.0.0.2",
        "torch 2.14.1 and 2.13.0",
        "1 more nodes differ",
        "cluster/Dockerfile",
        "constraints",
    ):
        assert part in told
    assert caught.value.exit_code == 2
    with pytest.raises(VersionError, match=r"a 1 and 2, b 1 and 2, c 1 and 2, d 1 and 2, e 1 and 2 and 1 more"):
        refuse_differences(dict.fromkeys("abcdef", "1"), {"x": dict.fromkeys("abcdef", "2")})


def test_a_worker_looks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    check_worker.cache_clear()
    monkeypatch.setenv(DRIVER, tell_workers(versions_here()))
    check_worker()
    check_worker.cache_clear()
    monkeypatch.setenv(DRIVER, tell_workers(versions_here() | {"pyarrow": "1.0"}))
    with pytest.raises(VersionError, match=r"pyarrow 1\.0 and "):
        check_worker()
    check_worker.cache_clear()
    monkeypatch.delenv(DRIVER)
    check_worker()
    check_worker.cache_clear()


def test_rays_own_refusal_in_our_words() -> None:
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as caught:
        check_version_info({"ray_version": "2.59.0", "python_version": "3.11.2"}, "node 10.0.0.1")
    error = nodes.refused_by_ray(caught.value)
    assert isinstance(error, VersionError)
    assert "the cluster was started by Ray 2.59.0 with Python 3.11.2" in str(error)
    assert f"this driver has Ray 2.60.0 with Python {versions_here()['python']}" in str(error)
    assert nodes.refused_by_ray(RuntimeError("Maybe you called ray.init twice by accident?")) is None


@pytest.mark.parametrize("told", ["CPU", "CPU=", "CPU=1;GPU=2", "CPU=-1", ",", "CPU=1,"])
def test_pools_that_can_not_be_read_are_refused(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(nodes.POOLS, told)
    assert nodes.pools() == {}, "nobody asks on a Ray of the run's own"
    monkeypatch.setenv(DRIVER, "{}")
    with pytest.raises(ConfigError, match="RAYMEDLT_POOLS"):
        nodes.pools()


CLUSTER = """
    import json, os
    from ray.cluster_utils import Cluster

    lie, folder = os.environ["LIE"], os.environ["FOLDER"]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    from raymedlt.errors import VersionError
    from raymedlt.ledger import Ledger
    from raymedlt.progress import Progress
    from raymedlt.replicas import needs_of_replica
    from raymedlt.runtime import connect, run_shards
    from raymedlt.storage import Storage

    told = {}

    def do(shard):
        handle.commit("work", shard, [], {})
        return {}

    os.environ["RAYMEDLT_POOLS"] = "CPU=1,GPU=2,training=1"
    with connect(1, address=cluster.address) as found:  # the head alone: nothing differs
        told["cluster"] = [found.cpus, found.gpus, found.nodes, found.grows]
        told["replica"] = [needs_of_replica(True), needs_of_replica(False)]
        cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": lie + os.pathsep + os.environ["PYTHONPATH"]})
        with Ledger.open(Storage.of(folder), config_hash="c", config={}, data_hash="d") as ledger:
            handle = ledger.worker()
            try:
                run_shards("work", ["s1"], do, progress=Progress(), workers=1, ledger=ledger)
            except VersionError as error:
                told["later"] = str(error)
            told["done"] = len(ledger.shards("work"))
    try:
        with connect(1, address=cluster.address):
            pass
    except VersionError as error:
        told["at once"] = str(error)
    cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": os.environ["BROKEN"]})
    try:
        with connect(1, address=cluster.address):
            pass
    except VersionError as error:
        told["broken"] = str(error)
    import ray
    ray.__version__ = "2.59.0"
    try:
        with connect(1, address=cluster.address):
            pass
    except VersionError as error:
        told["ray"] = str(error)
    cluster.shutdown()
    print(json.dumps(told))
"""


@pytest.mark.slow
def test_nodes_of_a_real_cluster_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two raylets, the second of which joins later and has another scipy: its worker refuses its first shard, and the
    next run is refused when it connects. Then a node with an empty raymedlt, and a driver with another Ray."""
    (tmp_path / "broken/raymedlt").mkdir(parents=True)
    (tmp_path / "broken/raymedlt/__init__.py").touch()
    monkeypatch.setenv("BROKEN", str(tmp_path / "broken"))
    monkeypatch.setenv("LIE", str(installed(tmp_path / "lie", "scipy", "1.0.0")))
    monkeypatch.setenv("FOLDER", str(tmp_path / "run"))
    told = fresh(CLUSTER, ROOT, cwd=tmp_path, timeout=400)
    own = versions_here()["scipy"]
    assert told["cluster"] == [1, 2, 1, True]
    assert told["replica"] == [{"CPU": 1, "GPU": 1, "training": 0.001}, {"CPU": 1}]
    assert f"scipy {own} and 1.0.0" in told["later"]
    assert told["done"] == 0
    assert f"would compute differently: scipy {own} and 1.0.0" in told["at once"]
    assert "can't run raymedlt" in told["broken"]
    assert "this driver has Ray 2.59.0" in told["ray"]
