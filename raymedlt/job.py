"""What every job script shares: read the configuration, run, say where the page is, and end with the right code.

Exit codes: 0 done; 2 unusable arguments or input; 143 stopped by SIGTERM, to be resumed; 1 anything else.
The last line on standard output is the path of the run's page.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from raymedlt.again import same_command
from raymedlt.errors import RaymedltError
from raymedlt.parsing import parse

T = TypeVar("T")

_QUOTES_NO_REPORT = (OSError, ImportError, MemoryError)
"""Exceptions whose messages are about files, packages and memory; others might quote a report."""


def main(
    config_class: type[T],
    program: str,
    describe: Callable[[T], str],
    run: Callable[[T], str],
    arguments: list[str] | None = None,
) -> int:
    """Run a job and return its exit code.

    Args:
        describe: what `--describe` prints; runs nothing.
        run: does the work and returns the path or URI of the page.
    """
    from raymedlt.runtime import graceful_stop

    try:
        config: Any = parse(config_class, arguments, program)
        if config.describe:
            print(describe(config))
            return 0
        with graceful_stop():
            page = run(config)
    except RaymedltError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        print(_unexpected(error), file=sys.stderr)
        return 1
    print(page)
    return 0


def _unexpected(error: Exception) -> str:
    """Where an error came from, without its message where that might quote a report."""
    message = str(error) if isinstance(error, _QUOTES_NO_REPORT) else "(message left out: it might quote a report)"
    return (
        f"{''.join(traceback.format_tb(error.__traceback__))}{type(error).__name__}: {message}\n"
        f"This looks like a bug in raymedlt or a library. Finished work is kept: {same_command()} goes on from there."
    )
