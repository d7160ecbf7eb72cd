"""Connections to object stores, and what their troubles are called."""

from __future__ import annotations

import posixpath
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from raymedlt.again import same_command
from raymedlt.errors import InputError, StorageError

# Their folders are only prefixes of names: making one would leave an empty marker object behind.
_OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})

_S3_ATTEMPTS = 8
"""Of a request that fails in a way that may pass, with growing pauses (at most 20 s): about a minute in all."""
_S3_CONNECT_SECONDS = 10.0
_S3_REQUEST_SECONDS = 60.0
"""Without a byte of an answer. The library's own limit, 3 s, gives up on a store that puts large parts together."""


def trouble(what: str, error: OSError) -> StorageError:
    """What a full disk, or a store that is away, does to a run."""
    return StorageError(
        f"{what} ({' '.join(str(error).split())})",
        "storage that is there, with room, and open to this user or role",
        f"free space, or check network and credentials, then give {same_command()} again: finished work is kept",
    )


@lru_cache(maxsize=16)
def connection(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of `uri` and the path of its folder in it."""
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ImportError, ValueError) as error:
        scheme = uri.split("://", 1)[0]  # the rest may hold credentials
        raise InputError(
            f"a '{scheme}://' URI that can't be used ({type(error).__name__})",
            "file://, s3://, gs:// or abfs://, with blanks written as %20",
            "check the spelling, or give a local path",
        ) from None
    except OSError as error:
        raise trouble(f"the region of the bucket '{urlsplit(uri).hostname}' can't be found", error) from None
    return _patient(filesystem) if filesystem.type_name == "s3" else filesystem, path.rstrip("/")


def _patient(found: Any) -> pafs.FileSystem:
    """The same S3 file system, for small files in one request, and for a store that is slow or away for a moment.

    A URI has no words for that, and what pickling takes apart is the only list of what the URI did say.
    """
    make, (settings,) = found.__reduce__()
    return make(
        {
            **settings,
            "allow_delayed_open": True,
            "connect_timeout": _S3_CONNECT_SECONDS,
            "request_timeout": _S3_REQUEST_SECONDS,
            "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=_S3_ATTEMPTS),
        }
    )


def put(filesystem: pafs.FileSystem, path: str, data: bytes) -> None:
    """Write the object at `path`; nobody sees it before it is whole. Raises OSError."""
    if filesystem.type_name not in _OBJECT_STORES:
        filesystem.create_dir(posixpath.dirname(path), recursive=True)
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)
