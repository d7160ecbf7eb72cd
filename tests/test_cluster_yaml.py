"""cluster.yaml and cluster/: what Ray's own validator accepts, what keeps reports private, and pinned versions.

A rule is a function that returns what is wrong with a file. Every rule must hold for the files as they are, and must
fail for each of its spoilt copies below.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml
from cluster_files import BASES, CLOUDS, KUBERAY, LAUNCHER, PROJECT, RAY, ROOT, Config, Rule, spoilt
from packaging.requirements import Requirement


def read(name: str) -> Config:
    """A launcher's file."""
    loaded: Config = yaml.safe_load((ROOT / name).read_text())
    return loaded


def prepared(config: Config) -> Config:
    """The configuration as `ray up` fills and checks it, without asking a cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole: Config = prepare_config(copy.deepcopy(config))
    validate_config(whole)
    return whole


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_accepts_it(name: str) -> None:
    config = read(name)
    whole = prepared(config)
    assert whole["head_start_ray_commands"] == config["head_start_ray_commands"]
    assert whole["worker_setup_commands"][: len(config["setup_commands"])] == config["setup_commands"]


@pytest.mark.parametrize("name", LAUNCHER)
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("max_wrokers", 4, "max_wrokers"),
        ("idle_timeout_minutes", "five", "five"),
        ("provider/type", None, "type"),
        ("docker/image", None, "image"),
        ("head_start_ray_commands", "ray start", "ray start"),
    ],
)
def test_ray_would_say_no(name: str, path: str, value: Any, message: str) -> None:
    with pytest.raises(Exception, match=message):
        prepared(spoilt(read(name), path, value))


def test_all_machines_of_ones_own_join_at_once() -> None:
    """Ray doesn't know what they have before they join, so that from zero they would never be asked for."""
    config = read("cluster/local.yaml")
    (machines,) = prepared(config)["available_node_types"].values()
    assert machines["min_workers"] == machines["max_workers"] == len(config["provider"]["worker_ips"])


# What all files must keep to


def pools(config: Config) -> list[str]:
    """The head does no work, on demand; workers come from zero, and only trainings pay for machines that stay."""
    spot = {
        "aws": lambda node: node.get("InstanceMarketOptions") == {"MarketType": "spot"},
        "gcp": lambda node: node.get("scheduling", {}).get("provisioningModel") == "SPOT",
    }[config["provider"]["type"]]
    types, wrong = config["available_node_types"], []
    head = types[config["head_node_type"]]
    if head["resources"].get("CPU") != 0 or spot(head["node_config"]):
        wrong.append("head")
    workers = {name: pool for name, pool in types.items() if name != config["head_node_type"]}
    if set(workers) != {"cpu_spot", "gpu_spot", "gpu_training"}:
        wrong.append("pools")
    for name, pool in workers.items():
        trains = "training" in pool["resources"]
        if pool["min_workers"] != 0 or not 1 <= pool["max_workers"] <= config["max_workers"]:
            wrong.append(f"{name}: number")
        if trains != (name == "gpu_training") or spot(pool["node_config"]) == trains:
            wrong.append(f"{name}: spot")
    return wrong


def install(config: Config) -> list[str]:
    """The checkout, with the pinned versions and the FAISS of the pool."""
    wrong = [] if config["file_mounts"].get("~/raymedlt") == "." else ["checkout"]
    wrong += [f"sync {name}" for name in (".git", "runs") if f"**/{name}" not in config["rsync_exclude"]]
    lists = {"cpu": config["setup_commands"]}
    for name, pool in config.get("available_node_types", {}).items():
        if name.startswith("gpu"):
            lists[f"gpu of {name}"] = pool.get("worker_setup_commands", [])
    for name, commands in lists.items():
        line = f"cd ~/raymedlt && pip install --no-input -c cluster/constraints.txt -e '.[{name[:3]}]'"
        if line not in commands or "chmod 600 ~/.ray/auth_token" not in commands:
            wrong.append(name)
    return wrong


def token(config: Config) -> list[str]:
    """Every process asks for the token, the machines get it, and it isn't written in the file."""
    lines = {name: " ".join(config[f"{name}_start_ray_commands"]) for name in ("head", "worker")}
    wrong = [name for name, line in lines.items() if "RAY_AUTH_MODE=token ray start" not in line]
    if "-e RAY_AUTH_MODE=token" not in config["docker"]["run_options"]:
        wrong.append("container")
    if config["file_mounts"].get("~/.ray/auth_token") != "~/.ray/auth_token":
        wrong.append("file")
    return wrong + re.findall(r"RAY_AUTH_TOKEN\s*=", yaml.safe_dump(config))


def closed(config: Config) -> list[str]:
    """The dashboard and the job server listen on loopback; nothing listens to the world; nothing is told to Ray."""
    start, text = " ".join(config["head_start_ray_commands"]), yaml.safe_dump(config)
    wrong = [word for word in ("--dashboard-host=127.0.0.1", "--disable-usage-stats") if word not in start]
    wrong += [word for word in ("0.0.0.0", "security_group", "--privileged", "::/0") if word in text]
    return wrong


def images(config: Config) -> list[str]:
    """Ray's images in the version of the package, with CUDA where there is a GPU."""
    wrong = [] if config["docker"]["image"] == BASES["cpu"] else ["image"]
    for name, pool in config.get("available_node_types", {}).items():
        wanted = BASES["gpu"] if name.startswith("gpu") else None
        if pool.get("docker", {}).get("worker_image") != wanted:
            wrong.append(name)
    return wrong


def capacity(config: Config) -> list[str]:
    """What the driver is told is what the pools hold at most."""
    cpus = {"m7i.2xlarge": 8, "g6.2xlarge": 8, "g6e.4xlarge": 16}
    most = {"CPU": 0, "GPU": 0, "training": 0}
    for name, pool in config["available_node_types"].items():
        if name != config["head_node_type"]:
            node = pool["node_config"]
            most["CPU"] += pool["max_workers"] * (pool["resources"].get("CPU") or cpus[node["InstanceType"]])
            most["GPU"] += pool["max_workers"] * name.startswith("gpu")
            most["training"] += pool["max_workers"] * pool["resources"].get("training", 0)
    line = "-e RAYMEDLT_POOLS=" + ",".join(f"{name}={count}" for name, count in most.items())
    return [] if line in config["docker"].get("head_run_options", []) else [line]


def aws_machines(config: Config) -> list[str]:
    """Encrypted disks that go with the machine, IMDSv2, an own security group, role and image."""
    wrong = [] if config["provider"]["cache_stopped_nodes"] is False else ["stopped machines keep their disks"]
    for name, pool in config["available_node_types"].items():
        node = pool["node_config"]
        options = node.get("MetadataOptions", {})
        if options.get("HttpTokens") != "required" or options.get("HttpPutResponseHopLimit") != 1:
            wrong.append(f"{name}: metadata")
        wrong += [
            f"{name}: {key}" for key in ("SecurityGroupIds", "IamInstanceProfile", "ImageId") if not node.get(key)
        ]
        disks = [disk["Ebs"] for disk in node.get("BlockDeviceMappings", [])]
        if not disks or not all(disk.get("Encrypted") is True and disk.get("DeleteOnTermination") for disk in disks):
            wrong.append(f"{name}: disks")
    return wrong


def gcp_machines(config: Config) -> list[str]:
    """Disks under a key of one's own that go with the machine, shielded machines, no public address, own account."""
    wrong = [] if config["provider"].get("use_internal_ips") is True else ["addresses"]
    for name, pool in config["available_node_types"].items():
        node = pool["node_config"]
        shield = node.get("shieldedInstanceConfig", {})
        if not (shield.get("enableVtpm") and shield.get("enableIntegrityMonitoring")):
            wrong.append(f"{name}: shield")
        if not name.startswith("gpu") and not shield.get("enableSecureBoot"):
            wrong.append(f"{name}: secure boot")
        if any("accessConfigs" in each for each in node.get("networkInterfaces", [{"accessConfigs": []}])):
            wrong.append(f"{name}: public address")
        if not all(disk.get("diskEncryptionKey") and disk.get("autoDelete") for disk in node["disks"]):
            wrong.append(f"{name}: disks")
        if [each["email"].partition("@")[0] for each in node.get("serviceAccounts", [])] != ["raymedlt"]:
            wrong.append(f"{name}: account")
    return wrong


HEAD_LINE = "head_start_ray_commands/1"
SPOT = "available_node_types/gpu_spot"
TRAINING = "available_node_types/gpu_training"
LAUNCHER_RULES: list[tuple[Rule, tuple[str, ...], list[tuple[str, Any]]]] = [
    (
        pools,
        CLOUDS,
        [
            ("available_node_types/head/resources/CPU", 8),
            ("available_node_types/cpu_spot/min_workers", 1),
            (f"{SPOT}/max_workers", 99),
            (f"{SPOT}/resources/training", 1),
            (TRAINING, None),
        ],
    ),
    (pools, CLOUDS[:1], [(f"{SPOT}/node_config/InstanceMarketOptions", None)]),
    (pools, CLOUDS[1:], [(f"{SPOT}/node_config/scheduling", None)]),
    (
        install,
        LAUNCHER,
        [("setup_commands/1", "pip install raymedlt"), ("setup_commands/0", None), ("file_mounts/~~raymedlt", None)],
    ),
    (install, CLOUDS, [(f"{SPOT}/worker_setup_commands", None), ("rsync_exclude", [])]),
    (
        token,
        LAUNCHER,
        [
            (HEAD_LINE, "ray start --head"),
            ("worker_start_ray_commands/1", "ray start"),
            ("docker/run_options", []),
            ("file_mounts/~~.ray~auth_token", None),
            ("initialization_commands/0", "export RAY_AUTH_TOKEN=abc"),
        ],
    ),
    (closed, LAUNCHER, [(HEAD_LINE, "RAY_AUTH_MODE=token ray start --head --dashboard-host=0.0.0.0")]),
    (images, LAUNCHER, [("docker/image", "rayproject/ray:latest"), ("docker/image", "rayproject/ray:2.59.0-py311")]),
    (images, CLOUDS, [(f"{SPOT}/docker/worker_image", BASES["cpu"]), (f"{TRAINING}/docker", None)]),
    (capacity, CLOUDS, [(f"{SPOT}/max_workers", 2), (f"{TRAINING}/resources/training", 2), ("docker", {})]),
    (
        aws_machines,
        CLOUDS[:1],
        [
            ("provider/cache_stopped_nodes", True),
            (f"{SPOT}/node_config/MetadataOptions/HttpTokens", "optional"),
            (f"{SPOT}/node_config/SecurityGroupIds", []),
            (f"{TRAINING}/node_config/ImageId", None),
            ("available_node_types/head/node_config/BlockDeviceMappings/0/Ebs/Encrypted", False),
        ],
    ),
    (
        gcp_machines,
        CLOUDS[1:],
        [
            ("provider/use_internal_ips", False),
            (f"{SPOT}/node_config/shieldedInstanceConfig/enableVtpm", False),
            ("available_node_types/head/node_config/shieldedInstanceConfig/enableSecureBoot", False),
            (f"{TRAINING}/node_config/networkInterfaces/0/accessConfigs", [{"type": "ONE_TO_ONE_NAT"}]),
            (f"{TRAINING}/node_config/disks/0/diskEncryptionKey", None),
            ("available_node_types/cpu_spot/node_config/serviceAccounts", None),
        ],
    ),
]
EACH_FILE = [(rule, name) for rule, names, _ in LAUNCHER_RULES for name in names]
EACH_SPOILT = [(rule, name, *how) for rule, names, ways in LAUNCHER_RULES for name in names for how in ways]


@pytest.mark.parametrize(("rule", "name"), dict.fromkeys(EACH_FILE))
def test_the_launchers_files_keep_to(rule: Rule, name: str) -> None:
    assert rule(read(name)) == []


@pytest.mark.parametrize(("rule", "name", "path", "value"), EACH_SPOILT)
def test_the_rule_sees_it(rule: Rule, name: str, path: str, value: Any) -> None:
    config = read(name)
    if "~~" in path:  # keys of file_mounts hold slashes
        folder, _, key = path.partition("/")
        del config[folder]["~/" + key.removeprefix("~~").replace("~", "/")]
        changed = config
    else:
        changed = spoilt(config, path, value)
    assert rule(changed) != []


# Versions: one Ray, one set of packages


def dockerfile(text: str) -> list[str]:
    """Ray's pinned images, the pinned packages, and a user who isn't root."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    bases = dict(re.findall(r"^FROM (\S+) AS (cpu|gpu)$", text, re.MULTILINE))
    wrong = [] if {kind: base for base, kind in bases.items()} == BASES else ["base"]
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    wrong += [] if users == ["1000:100"] else ["user"]
    wrong += [] if any("pip install" in line and "-c cluster/constraints.txt" in line for line in lines) else ["pins"]
    copied = [line for line in lines if line.startswith("COPY")]
    wrong += [] if copied and all("--chown=1000:100" in line for line in copied) else ["owner"]
    return wrong + [line for line in lines if line.startswith("ADD") or re.match(r"COPY .* \. \.$", line)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (BASES["gpu"], "rayproject/ray:latest-gpu"),
        ("USER 1000:100", "USER root"),
        ("-c cluster/constraints.txt ", ""),
        ("COPY --chown=1000:100 raymedlt raymedlt", "COPY --chown=1000:100 . ."),
    ],
)
def test_the_image_is_pinned_and_nobody_is_root_in_it(old: str, new: str) -> None:
    text = (ROOT / "cluster/Dockerfile").read_text()
    assert dockerfile(text) == []
    assert dockerfile(text.replace(old, new)) != []


def pins() -> dict[str, str]:
    """Package -> version of cluster/constraints.txt."""
    lines = (ROOT / "cluster/constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_pinned_versions_are_ones_that_the_package_asks_for() -> None:
    import ray

    found = pins()
    wanted = {each.name: each for each in map(Requirement, PROJECT["dependencies"])}
    assert found["ray"] == RAY == ray.__version__
    assert len(found) > 20
    for name, version in found.items():
        assert name not in wanted or wanted[name].specifier.contains(version), (name, version)


@pytest.mark.parametrize("name", [*LAUNCHER, *KUBERAY, "cluster/Dockerfile", "cluster/README.md"])
def test_one_version_of_ray_everywhere(name: str) -> None:
    text = (ROOT / name).read_text()
    named = set(re.findall(r"(?:rayproject/ray:|ray\[default\]==|rayVersion: \")(\d[\d.]*\d)", text))
    assert named <= {RAY}
    assert named or name.endswith("README.md")
    assert "0.0.0.0" not in text
