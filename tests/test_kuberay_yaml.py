"""cluster/kuberay-*.yaml: what KubeRay's definitions accept, and what keeps reports private (as test_cluster_yaml)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from cluster_files import KUBERAY, PROJECT, RAY, ROOT, Config, Rule, spoilt
from kuberay_shape import KINDS, faults


def documents(name: str) -> dict[str, Config]:
    """The documents of a KubeRay file by their kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((ROOT / name).read_text())}


def cluster_spec(found: dict[str, Config]) -> Config:
    """The cluster that a KubeRay file describes."""
    spec: Config = found["RayJob"]["spec"]["rayClusterSpec"] if "RayJob" in found else found["RayCluster"]["spec"]
    return spec


def pods(found: dict[str, Config]) -> Iterator[Config]:
    """The templates of all pods of a KubeRay file."""
    spec = cluster_spec(found)
    yield spec["headGroupSpec"]["template"]
    yield from (group["template"] for group in spec["workerGroupSpecs"])
    if "RayJob" in found:
        yield found["RayJob"]["spec"]["submitterPodTemplate"]


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_accepts_it(name: str) -> None:
    found = documents(name)
    assert {"ServiceAccount", "NetworkPolicy"} < set(found)
    for each in found.values():
        assert faults(each) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("spec/headGroupSpec", None, "RayCluster.spec.headGroupSpec is missing"),
        ("spec/workerGroupSpecs/0/groupName", None, "RayCluster.spec.workerGroupSpecs[0].groupName is missing"),
        ("spec/workerGroupSpecs/1/minReplicas", "0", "minReplicas is '0', expected int"),
        ("spec/enableInTreeAutoscaling", 1, "enableInTreeAutoscaling is 1, expected bool"),
        ("spec/autoscalerOptions/version", "v3", "version is 'v3', expected one of ['v1', 'v2']"),
        ("spec/headGroupSpec/rayStartParams/num-cpus", 0, "num-cpus is 0, expected str"),
        ("spec/headGroupSpec/template/spec/hostNetwork", True, "hostNetwork is unknown"),
        ("spec/headGroupSpec/template/spec/containers", {}, "containers is no list"),
        ("spec/authOptions", "token", "authOptions is no mapping"),
        ("apiVersion", "ray.io/v2", "RayCluster.apiVersion is 'ray.io/v2', expected one of ['ray.io/v1']"),
        ("kind", "RayClutser", "kind is 'RayClutser'"),
    ],
)
def test_kubernetes_would_say_no(path: str, value: Any, told: str) -> None:
    cluster = documents(KUBERAY[0])["RayCluster"]
    assert any(told in each for each in faults(spoilt(cluster, path, value)))


def test_the_job_has_the_clusters_cluster() -> None:
    """The same in both files, but for the dashboard, which the operator must reach while a job runs."""
    alone, with_job = (cluster_spec(documents(name)) for name in KUBERAY)
    assert alone["headGroupSpec"]["rayStartParams"].pop("dashboard-host") == "127.0.0.1"
    assert alone == with_job


def kuberay_pools(found: dict[str, Config]) -> list[str]:
    """As in the launcher's files: a head without work, workers from zero, on spot nodes but for trainings."""
    spec = cluster_spec(found)
    head, groups = spec["headGroupSpec"], {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    wrong = [] if head["rayStartParams"].get("num-cpus") == "0" else ["head works"]
    wrong += [] if set(groups) == {"cpu-spot", "gpu-spot", "gpu-training"} else ["groups"]
    wrong += [] if spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2" else ["autoscaler"]
    capacity = {name: str(group["template"]["spec"]["nodeSelector"]) for name, group in groups.items()}
    for name, group in groups.items():
        if (group["replicas"], group["minReplicas"]) != (0, 0) or group["maxReplicas"] < 1:
            wrong.append(f"{name}: number")
        gpu = "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
        trains = "training" in group["rayStartParams"].get("resources", "")
        if gpu != name.startswith("gpu") or trains != (name == "gpu-training"):
            wrong.append(f"{name}: resources")
        if ("'spot'" in capacity[name]) == trains:
            wrong.append(f"{name}: spot")
    return wrong


def kuberay_capacity(found: dict[str, Config]) -> list[str]:
    """What the driver is told is what the groups hold at most."""
    spec, most = cluster_spec(found), {"CPU": 0, "GPU": 0, "training": 0}
    for group in spec["workerGroupSpecs"]:
        limits, count = group["template"]["spec"]["containers"][0]["resources"]["limits"], group["maxReplicas"]
        most["CPU"] += count * int(limits["cpu"])
        most["GPU"] += count * int(limits.get("nvidia.com/gpu", 0))
        most["training"] += count * ("training" in group["rayStartParams"].get("resources", ""))
    told = {each["name"]: each["value"] for each in spec["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]}
    wanted = ",".join(f"{name}={number}" for name, number in most.items())
    return [] if told.get("RAYMEDLT_POOLS") == wanted else [wanted]


def kuberay_closed(found: dict[str, Config]) -> list[str]:
    """A token from a Secret, pods without privileges or a host's folders, no way in from outside the cluster."""
    spec = cluster_spec(found)
    wrong = [] if spec.get("authOptions") == {"mode": "token", "secretName": "raymedlt-token"} else ["token"]
    if spec["headGroupSpec"]["serviceType"] != "ClusterIP" or spec["headGroupSpec"]["enableIngress"]:
        wrong.append("service")
    if "RayCluster" in found and spec["headGroupSpec"]["rayStartParams"].get("dashboard-host") != "127.0.0.1":
        wrong.append("dashboard")
    policy = found["NetworkPolicy"]["spec"]
    selected = policy["podSelector"]["matchLabels"]
    if policy["policyTypes"] != ["Ingress"] or not all(each.get("from") for each in policy["ingress"]):
        wrong.append("network")
    securities = [spec["autoscalerOptions"].get("securityContext", {})]
    for pod in pods(found):
        own = pod["spec"]["securityContext"]
        if not own.get("runAsNonRoot") or own.get("runAsUser", 0) == 0:
            wrong.append("root")
        if pod["metadata"]["labels"] != selected:
            wrong.append("outside the policy")
        securities += [each.get("securityContext", {}) for each in pod["spec"]["containers"]]
    for each in securities:
        if each.get("allowPrivilegeEscalation") is not False or each.get("capabilities") != {"drop": ["ALL"]}:
            wrong.append("privileges")
    text = yaml.safe_dump(list(found.values()))
    return wrong + [word for word in ("0.0.0.0", "hostPath", "privileged: true", "RAY_AUTH_TOKEN") if word in text]


def kuberay_images(found: dict[str, Config]) -> list[str]:
    """Images of the package's version, with faiss-gpu where there is a GPU, and Ray's version as in the package."""
    wrong = [] if cluster_spec(found)["rayVersion"] == RAY else ["Ray's version"]
    for pod in pods(found):
        for each in pod["spec"]["containers"]:
            kind = "gpu" if "nvidia.com/gpu" in each["resources"]["limits"] else "cpu"
            if each["image"] != f"registry.example.com/raymedlt:{PROJECT['version']}-{kind}":
                wrong.append(each["image"])
    return wrong


def test_kuberay_files_keep_to_it() -> None:
    for name in KUBERAY:
        found = documents(name)
        assert kuberay_pools(found) == kuberay_closed(found) == kuberay_images(found) == kuberay_capacity(found) == []


GROUP = "RayCluster/spec/workerGroupSpecs"
HEAD = "RayCluster/spec/headGroupSpec"
FIRST = "template/spec/containers/0"


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        (kuberay_pools, f"{HEAD}/rayStartParams/num-cpus", None),
        (kuberay_pools, f"{GROUP}/2", None),
        (kuberay_pools, f"{GROUP}/0/minReplicas", 1),
        (kuberay_pools, f"{GROUP}/1/{FIRST}/resources/limits", {"cpu": "7"}),
        (kuberay_pools, f"{GROUP}/1/rayStartParams", {"resources": "training"}),
        (kuberay_pools, f"{GROUP}/1/template/spec/nodeSelector", {"kind": "on-demand"}),
        (kuberay_pools, "RayCluster/spec/autoscalerOptions/version", "v1"),
        (kuberay_closed, "RayCluster/spec/authOptions/mode", "disabled"),
        (kuberay_closed, f"{HEAD}/serviceType", "LoadBalancer"),
        (kuberay_closed, f"{HEAD}/rayStartParams/dashboard-host", None),
        (kuberay_closed, "NetworkPolicy/spec/ingress", [{}]),
        (kuberay_closed, f"{GROUP}/0/template/spec/securityContext/runAsUser", 0),
        (kuberay_closed, f"{GROUP}/0/template/metadata/labels", {"app": "other"}),
        (kuberay_closed, f"{GROUP}/0/{FIRST}/securityContext", None),
        (kuberay_closed, f"{GROUP}/0/template/spec/volumes", [{"hostPath": {"path": "/data"}}]),
        (kuberay_closed, f"{HEAD}/{FIRST}/env", [{"name": "RAY_AUTH_TOKEN", "value": "abc"}]),
        (kuberay_capacity, f"{GROUP}/0/maxReplicas", 9),
        (kuberay_capacity, f"{HEAD}/{FIRST}/env", []),
        (kuberay_images, "RayCluster/spec/rayVersion", "2.59.0"),
        (kuberay_images, f"{GROUP}/1/{FIRST}/image", f"registry.example.com/raymedlt:{PROJECT['version']}-cpu"),
        (kuberay_images, f"{HEAD}/{FIRST}/image", "registry.example.com/raymedlt:latest"),
    ],
)
def test_kuberay_rules_see_it(rule: Rule, path: str, value: Any) -> None:
    assert rule(spoilt(documents(KUBERAY[0]), path, value)) != []


def test_every_kind_of_shape_is_used() -> None:
    assert set(KINDS) == {kind for name in KUBERAY for kind in documents(name)}
