"""Errors say what was got, what was expected and what to do, and survive the way between processes."""

from __future__ import annotations

import pickle

import pytest

from raymedlt import errors
from raymedlt.errors import ConfigError, InputError, InterruptedRun, RaymedltError

FAMILY = [
    item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, RaymedltError)
]  # fmt: skip


def test_message_has_all_three_parts():
    error = InputError("a table without rows", "at least one row", "check the path")
    assert str(error) == "a table without rows. Expected: at least one row. To fix: check the path."


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (("got",), "got."),
        (("got.",), "got."),
        (("got", "", "do this."), "got. To fix: do this."),
        (("got", "that"), "got. Expected: that."),
    ],
)
def test_missing_parts_leave_no_trace(parts: tuple[str, ...], text: str):
    assert str(ConfigError(*parts)) == text


@pytest.mark.parametrize("kind", FAMILY)
def test_pickling_keeps_type_and_parts(kind: type[RaymedltError]):
    error = pickle.loads(pickle.dumps(kind("got", "expected", "fix")))
    assert type(error) is kind
    assert (error.got, error.expected, error.fix) == ("got", "expected", "fix")


def test_exit_codes():
    codes = {kind.__name__: kind.exit_code for kind in FAMILY}
    assert codes == {
        "RaymedltError": 1,
        "ConfigError": 2,
        "InputError": 2,
        "RunConflictError": 2,
        "MissingDependencyError": 2,
        "VersionError": 2,
        "ConsistencyError": 1,
        "StorageError": 1,
        "InterruptedRun": InterruptedRun.exit_code,
    }
    assert InterruptedRun.exit_code == 143
