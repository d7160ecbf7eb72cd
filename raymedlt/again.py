"""How to give the command of this process again: a word that would delete finished work must not be repeated."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

_RESTART = "--restart"


def same_command() -> str:
    """The words "the same command", for messages."""
    words = sys.argv[1:]
    return "the same command" + (f" (without {_RESTART})" if without_restart(words) != words else "")


def command_line() -> str:
    """The command as a line for a shell, for pages."""
    return shlex.join(["python", sys.argv[0], *without_restart(sys.argv[1:])])


def without_restart(words: Sequence[str]) -> list[str]:
    """The words of a command line but for `--restart`, `--restart=true` and `--restart true`."""
    kept, value_follows = [], False
    for word in words:
        if value_follows and word.lower() in ("true", "false"):
            value_follows = False
            continue
        value_follows = word == _RESTART
        if word.partition("=")[0] != _RESTART:
            kept.append(word)
    return kept
