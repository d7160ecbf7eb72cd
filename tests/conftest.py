"""Shared by all tests: nothing is fetched from the network, and one local Ray serves all tests of a process.

Two processes share the tests, module by module (pytest-xdist).
"""

import os
import secrets

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - or tests beside Ray's workers would starve them

import pytest


def pytest_make_parametrize_id(val, argname):
    """Bytes by their length: both processes must collect the same names, and a gzip header holds the time."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items):
    """Jobs first: their modules take longest, and what begins last should be short."""
    items.sort(key=lambda item: item.path.parent.name != "jobs")


@pytest.fixture(scope="session")
def local_ray():
    """A local Ray as `runtime.connect` starts it, with two workers; yields its Cluster."""
    from raymedlt.runtime import connect

    with connect(2) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory):
    """Port of a real S3 server on loopback, with one bucket (tests/worlds/s3_world.py)."""
    from s3_world import s3_server

    with s3_server(tmp_path_factory.mktemp("s3") / "log") as port:
        yield port


@pytest.fixture
def s3(s3_port, monkeypatch):
    """An s3:// URI that nobody has used, with credentials and endpoint in the environment, as a user sets them."""
    from s3_world import BUCKET, environment_of

    for name, value in environment_of(s3_port).items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


@pytest.fixture(params=["local", "remote", "s3"])
def storage(request, tmp_path, monkeypatch):
    """A folder on disk, one on a file system that is reached by URI only, and one on an S3 server."""
    from raymedlt import driverlock
    from raymedlt.storage import Storage

    monkeypatch.setattr(driverlock, "SETTLES_AFTER", 0.0)
    if request.param == "local":
        return Storage.of(str(tmp_path / "out"))
    if request.param == "remote":
        return Storage.of(f"fsspec+memory://bucket-{secrets.token_hex(4)}/out")
    return Storage.of(f"{request.getfixturevalue('s3')}/out")
