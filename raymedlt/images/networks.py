"""What all timm networks over grey images share: how pixels are normalised, and where given weights are looked for."""

from __future__ import annotations

import difflib

import safetensors
import safetensors.torch
import timm
from torch import Tensor

from raymedlt.errors import ConfigError, InputError
from raymedlt.storage import Storage, folder_and_name

GREY_MEAN, GREY_STD = 0.5, 0.25
"""Normalisation of a network with a random start (pixels in [0, 1]): about those of chest X-rays."""

FIRST_MEMBER = "member-0.safetensors"
"""The first network in the folder `model` of a run of jobs/classify.py."""


def weights_bytes(weights: str, key: str) -> bytes:
    """The file that a configuration's `key` names: itself, or the (first) network in a folder or a run's folder.

    Raises:
        InputError: there is none.
    """
    storage, name = folder_and_name(weights)
    if name.endswith(".safetensors"):
        names = [name]
    else:
        names = [f"{folder}{file}" for folder in ("", "model/") for file in ("model.safetensors", FIRST_MEMBER)]
        storage = Storage.of(weights)
    for name in names:
        if storage.size(name) is not None:
            return storage.read_bytes(name)
    raise InputError(
        f"{key} names '{storage.uri}', where there is no {' and no '.join(names)}",
        "a .safetensors file, a folder with model.safetensors, or a run folder of jobs/classify.py",
        f"correct {key}",
    )


def read_weights(weights: str, key: str) -> dict[str, Tensor]:
    """The tensors of the file that a configuration's `key` names, on the CPU; see `weights_bytes`.

    Raises:
        InputError: there is no such file, or it is no safetensors file.
    """
    data = weights_bytes(weights, key)
    try:
        return dict(safetensors.torch.load(data))
    except safetensors.SafetensorError:
        raise InputError(
            f"{key} names '{weights}', {len(data):,} bytes that are no safetensors file", "weights as safetensors",
            "copy the file again; a pickled file is never opened",
        ) from None  # fmt: skip


def refuse_unknown_network(name: str, key: str, *others: str) -> None:
    """Refuse a name that timm does not know, and give near ones; `others` are names that `key` may also have.

    Raises:
        ConfigError: timm has no such network.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
        expected = " or ".join([*map(repr, others), "a name from timm.list_models()"])
        raise ConfigError(
            f"{key} is {name!r}, which timm {timm.__version__} does not have",
            expected + (f", such as {', '.join(near)}" if near else ""),
            f"correct {key}",
        )
