"""What the gate's folder takes over from a classifier's, and how its files are checked (see gate.py)."""

from __future__ import annotations

import json

import yaml

from raymedlt.errors import ConsistencyError, InputError
from raymedlt.parsing import refuse_bomb
from raymedlt.storage import Storage, sha256_of

CLASSIFIER_ABOUT = "classifier.json"


def verified(storage: Storage, name: str, digest: str) -> bytes:
    """A file of the gate, or ConsistencyError if it isn't what was written."""
    try:
        data = storage.read_bytes(name)
    except FileNotFoundError:
        data = b""
    if sha256_of(data) != digest:
        raise ConsistencyError(
            f"the gate's file '{name}' is missing or differs from its sha256", "the bytes that were written",
            f"fit the gate in {storage.uri} anew, and check the disk",
        )  # fmt: skip
    return data


def classifier_files(folder: str) -> dict[str, bytes]:
    """What a classifier's folder `model` holds; refused if the run's configuration names synthetic images."""
    storage = Storage.of(folder)
    if storage.exists("config.yaml"):
        data = storage.read_bytes("config.yaml")
        refuse_bomb(data, f"{storage.uri}/config.yaml")
        section = (yaml.safe_load(data) or {}).get("synthetic") or {}
        if section.get("path"):
            raise InputError(
                "a classifier that was trained on synthetic images",
                "one trained on real images only: it judges whether synthetic images show their labels",
                "run jobs/classify.py without --synthetic.path, and give that run's folder",
            )
    if not storage.exists(CLASSIFIER_ABOUT):
        storage = storage.sub("model")
    if not storage.exists(CLASSIFIER_ABOUT):
        raise InputError(f"no {CLASSIFIER_ABOUT} in '{Storage.of(folder).uri}'", "a finished run of jobs/classify.py")
    about = storage.read_bytes(CLASSIFIER_ABOUT)
    return {CLASSIFIER_ABOUT: about} | {name: storage.read_bytes(name) for name in json.loads(about)["members"]}
