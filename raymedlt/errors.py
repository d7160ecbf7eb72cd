"""One family of exceptions. Each says what was got, what was expected and what to do.

No message ever holds report text: messages reach logs and job metadata (house rule 7). Name the file, row, column or
key instead.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterable

MAX_NAME_CHARS = 40
_NAME = re.compile(r"\W{0,2}[\w-]+(?:[ /.:-]{1,2}[\w-]+){0,2}[?)\]]?")


class RaymedltError(Exception):
    """Base of every error that raymedlt raises on purpose.

    Args:
        got: what was found, in words (never report text).
        expected: what should have been there.
        fix: what the user can do now.
    """

    exit_code = 1

    def __init__(self, got: str, expected: str = "", fix: str = "") -> None:
        self.got, self.expected, self.fix = got, expected, fix
        super().__init__(got, expected, fix)  # the arguments, so that the error survives pickling between processes

    def __str__(self) -> str:
        parts = [self.got, self.expected and f"Expected: {self.expected}", self.fix and f"To fix: {self.fix}"]
        return ". ".join(part.rstrip(".") for part in parts if part) + "."


class ConfigError(RaymedltError):
    """A configuration key or value that can't be used."""

    exit_code = 2


class InputError(RaymedltError):
    """Input data that can't be used as a whole (single bad rows are rejected, not raised)."""

    exit_code = 2


class RunConflictError(RaymedltError):
    """The output folder belongs to another configuration, other data, or a driver that is still at work."""

    exit_code = 2


class MissingDependencyError(RaymedltError):
    """An optional package is needed; the message says which extra installs it."""

    exit_code = 2


class VersionError(RaymedltError):
    """Driver and nodes of a cluster have other versions of something: results would depend on the node."""

    exit_code = 2


class ConsistencyError(RaymedltError):
    """Counts in and counts out differ, or a stored file doesn't match its ledger entry: a bug or a damaged disk."""


class StorageError(RaymedltError):
    """A disk or object store that can't be read or written now: full, away, or not allowed. The run goes on later."""


class InterruptedRun(RaymedltError):
    """SIGTERM or Ctrl-C: the run stopped cleanly and goes on when the same command is given again."""

    exit_code = 143


def names_to_show(names: Iterable[str], most: int = 40) -> str:
    """Column or label names for a message: a "name" of more than three words may be report text (a file without a
    header, a text in the wrong column), and is counted but not quoted."""
    given = [name for name in names if name]
    plain = [name for name in given if len(name) <= MAX_NAME_CHARS and _NAME.fullmatch(name)]
    shown = plain[:most]
    others = len(given) - len(shown)
    return f"{shown}" + (f" and {others} more" if others else "")


def without_message(where: str, error: Exception) -> RaymedltError:
    """An error that names the type and place of another, but not its message, which might quote a report."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{os.path.basename(frame.filename)}:{frame.lineno} ({frame.name})" for frame in frames[-3:]]
    return RaymedltError(
        f"{where} failed with {type(error).__name__} at {' > '.join(places)}",
        "",
        "this looks like a bug in raymedlt or a library; the message is left out, since it might quote a report",
    )
