"""cluster.yaml: what Ray's own validator accepts, and the points that keep reports private."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "cluster.yaml"


@pytest.fixture(scope="module")
def text() -> str:
    return FILE.read_text()


@pytest.fixture
def cluster(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def prepared(cluster: dict[str, Any]) -> dict[str, Any]:
    """The configuration as `ray up` fills and checks it, without asking AWS."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole: dict[str, Any] = prepare_config(copy.deepcopy(cluster))
    validate_config(whole)
    return whole


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    whole = prepared(cluster)
    assert whole["available_node_types"]["cpu_spot"]["max_workers"] == 4
    assert whole["head_start_ray_commands"] == cluster["head_start_ray_commands"]


def test_the_validator_would_say_no(cluster: dict[str, Any]) -> None:
    """The check above can fail: a misspelt key, a head that isn't there, and too many workers are refused."""
    for change in ({"max_wrokers": 4}, {"head_node_type": "hed"}, {"max_workers": "four"}):
        with pytest.raises(Exception, match=r"max_wrokers|head_node_type|four"):
            prepared(cluster | change)


def test_with_the_gpu_pool_it_is_valid_too(text: str) -> None:
    begin, end = text.index("  # gpu_spot:"), text.index("head_node_type:")
    pool = re.sub(r"^  # ", "  ", text[begin:end], flags=re.MULTILINE)
    whole = prepared(yaml.safe_load(text[:begin] + pool + text[end:]))
    gpu = whole["available_node_types"]["gpu_spot"]
    assert gpu["min_workers"] == 0
    assert gpu["node_config"]["InstanceType"].startswith("g")
    assert gpu["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_the_head_does_no_work_and_workers_are_spot_from_zero(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    head = types[cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    workers = {name: pool for name, pool in types.items() if name != cluster["head_node_type"]}
    assert workers
    for pool in workers.values():
        assert pool["min_workers"] == 0
        assert pool["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_machines_are_closed(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["cache_stopped_nodes"] is False
    for pool in cluster["available_node_types"].values():
        machine = pool["node_config"]
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert machine["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
        assert machine["SecurityGroupIds"], "without one Ray opens SSH to the internet"
        assert machine["IamInstanceProfile"], "without one Ray makes a role with full access"
        assert machine["BlockDeviceMappings"]
        for disk in machine["BlockDeviceMappings"]:
            assert disk["Ebs"]["Encrypted"] is True
            assert disk["Ebs"]["DeleteOnTermination"] is True


def test_nothing_listens_to_the_world(cluster: dict[str, Any], text: str) -> None:
    assert "0.0.0.0" not in text
    start = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "security_group" not in cluster["provider"]


def test_every_node_asks_for_the_token(cluster: dict[str, Any]) -> None:
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token ray start" in " ".join(cluster[name])
    assert "-e RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert not re.search(r"RAY_AUTH_TOKEN\s*=", FILE.read_text()), "a token in the file would be committed"


def test_versions_are_pinned_to_what_the_package_asks_for(cluster: dict[str, Any]) -> None:
    import ray

    image = re.fullmatch(r"rayproject/ray:(\d+\.\d+)\.\d+-py311", cluster["docker"]["image"])
    assert image
    assert image.group(1) == ".".join(ray.__version__.split(".")[:2])
    assert f"ray[data,default,train]>={image.group(1)}" in (ROOT / "pyproject.toml").read_text()


def test_the_project_is_installed_with_faiss_for_cpus(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["~/raymedlt"] == "."
    assert any("pip install" in command and "-e '.[cpu]'" in command for command in cluster["setup_commands"])
    for name in (".git", "runs"):
        assert f"**/{name}" in cluster["rsync_exclude"]
