"""A job's configuration from the command line and a YAML file, with messages that name the nearest known key."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from typing import Any, TypeVar, cast

from raymedlt.config import flatten
from raymedlt.errors import ConfigError

SWITCHES = ("--describe", "--restart", "--ablate")  # may stand alone on the command line

T = TypeVar("T")


def parse(config_class: type[T], arguments: list[str] | None = None, program: str | None = None) -> T:
    """Read `config_class` from the command line and, where `--config` names one, a YAML file.

    Args:
        arguments: command-line words; default `sys.argv[1:]`.
        program: the name that `--help` shows, e.g. "python jobs/enrich.py".

    Raises:
        ConfigError: an unknown key (the message names the nearest known one) or a value of the wrong type.
        SystemExit: after `--help` or `--print_config`.
    """
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=program, description=config_class.__doc__, exit_on_error=False, default_env=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below; later words win")
    parser.add_class_arguments(config_class, nested_key=None, as_group=True)
    try:
        words = sys.argv[1:] if arguments is None else arguments
        parsed = parser.parse_args(_complete_switches(words))
        return _build(config_class, parsed.as_dict())
    except jsonargparse.ArgumentError as error:
        raise _explained(config_class, str(error.message if hasattr(error, "message") else error)) from None


def _complete_switches(words: list[str]) -> list[str]:
    """`--describe` alone means `--describe true`."""
    following = [*words[1:], ""][: len(words)]
    return [
        f"{word}=true" if word in SWITCHES and after.lower() not in ("true", "false") else word
        for word, after in zip(words, following, strict=True)
    ]


def _build(config_class: type[T], values: dict[str, Any]) -> T:
    """Make the dataclass from nested plain values."""
    known = {item.name: item for item in dataclasses.fields(cast(Any, config_class))}
    made: dict[str, Any] = {}
    for name, item in known.items():
        value = values[name]
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        if dataclasses.is_dataclass(default) and not dataclasses.is_dataclass(value):
            if not isinstance(value, dict):
                raise ConfigError(f"{name} is {value!r}", f"a section with keys, as in {name}.KEY", "see --help")
            value = _build(type(default), value)
        made[name] = value
    return config_class(**made)


_UNKNOWN_KEY = (
    re.compile(r"unrecognized arguments: (?:--)?([\w.]+)", re.IGNORECASE),
    re.compile(r"Option '([\w.]+)' is not accepted"),
    re.compile(r"does not accept option '([\w.]+)'"),
    re.compile(r"[Kk]ey \"?'?([\w.]+)'?\"? is not expected"),
)


def _explained(config_class: type[Any], message: str) -> ConfigError:
    """Turn the parser's message into ours, with the nearest known key where the key is unknown."""
    keys = list(flatten(config_class()))
    for pattern in _UNKNOWN_KEY:
        if match := pattern.search(message):
            word = match.group(1)
            leaves = {key.rsplit(".", 1)[-1]: key for key in keys}
            near = difflib.get_close_matches(word, keys, n=1) or difflib.get_close_matches(
                word, leaves, n=1, cutoff=0.5
            )
            nearest = leaves.get(near[0], near[0]) if near else None
            expected = f"a known key; the nearest is '{nearest}'" if nearest else "a known key"
            return ConfigError(f"unknown key '{word}'", expected, "see --help for all keys")
    return ConfigError(" ".join(message.split()), "a valid configuration", "see --help for keys and types")
