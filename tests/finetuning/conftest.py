"""Replicas that the tests of this folder share."""

import pytest


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Two processes with gloo between them."""
    from replicas_world import Replicas

    replicas = Replicas(2, str(tmp_path_factory.mktemp("pair")))
    yield replicas
    replicas.stop()


@pytest.fixture(scope="session")
def single(tmp_path_factory):
    """One process of its own: DeepSpeed leaves a process group in it."""
    from replicas_world import Replicas

    replicas = Replicas(1, str(tmp_path_factory.mktemp("single")))
    yield replicas
    replicas.stop()
