"""The part of KubeRay's definitions (ray.io/v1, operator 1.6 and 1.7) and of Kubernetes' own that our files use.

A shape is a type, a set of allowed strings, [shape of each entry], or {field: shape}, where a field that ends in "!"
must be there and no other field may. {"*": shape} takes any field.
"""

from __future__ import annotations

from typing import Any

STRINGS = {"*": str}
QUANTITIES = {"*": str}
META = {"name": str, "labels": STRINGS, "annotations": STRINGS}
RESOURCES = {"requests": QUANTITIES, "limits": QUANTITIES}

CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": bool,
    "runAsNonRoot": bool,
    "runAsUser": int,
    "capabilities": {"add": [str], "drop": [str]},
    "seccompProfile": {"type!": {"RuntimeDefault", "Localhost", "Unconfined"}},
}
CONTAINER = {
    "name!": str,
    "image": str,
    "env": [{"name!": str, "value": str, "valueFrom": {"secretKeyRef": {"name": str, "key!": str}}}],
    "ports": [{"name": str, "containerPort!": int, "protocol": str}],
    "securityContext": CONTAINER_SECURITY,
    "resources": RESOURCES,
}
TEMPLATE = {
    "metadata": META,
    "spec": {
        "containers!": [CONTAINER],
        "restartPolicy": {"Never", "OnFailure", "Always"},
        "serviceAccountName": str,
        "automountServiceAccountToken": bool,
        "nodeSelector": STRINGS,
        "tolerations": [{"key": str, "operator": {"Exists", "Equal"}, "value": str, "effect": str}],
        "securityContext": {"runAsNonRoot": bool, "runAsUser": int, "runAsGroup": int, "fsGroup": int},
    },
}
CLUSTER_SPEC = {
    "rayVersion": str,
    "authOptions": {"mode": {"disabled", "token"}, "secretName": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {
        "version": {"v1", "v2"},
        "upscalingMode": {"Default", "Aggressive", "Conservative"},
        "idleTimeoutSeconds": int,
        "resources": RESOURCES,
        "securityContext": CONTAINER_SECURITY,
    },
    "headGroupSpec!": {
        "serviceType": {"ClusterIP", "NodePort", "LoadBalancer"},
        "enableIngress": bool,
        "rayStartParams": STRINGS,
        "template!": TEMPLATE,
    },
    "workerGroupSpecs": [
        {
            "groupName!": str,
            "replicas": int,
            "minReplicas!": int,
            "maxReplicas!": int,
            "rayStartParams": STRINGS,
            "template!": TEMPLATE,
        }
    ],
}
JOB_SPEC = {
    "entrypoint": str,
    "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
    "backoffLimit": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "activeDeadlineSeconds": int,
    "rayClusterSpec": CLUSTER_SPEC,
    "submitterPodTemplate": TEMPLATE,
}
PEERS = [{"podSelector": {"matchLabels": STRINGS}, "namespaceSelector": {"matchLabels": STRINGS}}]
KINDS = {
    "RayCluster": {"apiVersion!": {"ray.io/v1"}, "kind!": str, "metadata!": META, "spec!": CLUSTER_SPEC},
    "RayJob": {"apiVersion!": {"ray.io/v1"}, "kind!": str, "metadata!": META, "spec!": JOB_SPEC},
    "ServiceAccount": {"apiVersion!": {"v1"}, "kind!": str, "metadata!": META},
    "NetworkPolicy": {
        "apiVersion!": {"networking.k8s.io/v1"},
        "kind!": str,
        "metadata!": META,
        "spec!": {
            "podSelector!": {"matchLabels": STRINGS},
            "policyTypes": [{"Ingress", "Egress"}],
            "ingress": [{"from": PEERS, "ports": [{"port": int, "protocol": {"TCP", "UDP"}}]}],
        },
    },
}


def faults(document: dict[str, Any]) -> list[str]:
    """What is wrong with a document, by place; [] if nothing."""
    kind = document.get("kind")
    return _faults(document, KINDS[kind], str(kind)) if kind in KINDS else [f"kind is {kind!r}"]


def _faults(value: Any, shape: Any, place: str) -> list[str]:
    if isinstance(shape, set):
        return [] if value in shape else [f"{place} is {value!r}, expected one of {sorted(shape)}"]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{place} is no list"]
        return [fault for n, each in enumerate(value) for fault in _faults(each, shape[0], f"{place}[{n}]")]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{place} is no mapping"]
        inner = {name.rstrip("!"): each for name, each in shape.items()}
        missing = [f"{place}.{name[:-1]} is missing" for name in shape if name.endswith("!") and name[:-1] not in value]
        for name, each in value.items():
            known = inner.get(name, inner.get("*"))
            missing += [f"{place}.{name} is unknown"] if known is None else _faults(each, known, f"{place}.{name}")
        return missing
    return [] if type(value) is shape else [f"{place} is {value!r}, expected {shape.__name__}"]
