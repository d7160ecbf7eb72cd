"""Shared by all tests: nothing is fetched from the network, and one local Ray serves the whole session."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest


@pytest.fixture(scope="session")
def local_ray():
    """A local Ray as `runtime.connect` starts it, with two workers; yields its Cluster."""
    from raymedlt.runtime import connect

    with connect(2) as cluster:
        yield cluster
