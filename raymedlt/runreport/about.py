"""What every job's page says about its run: seconds, rejected rows, configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymedlt.runreport.figures import ACCENT, QUIET, bars
from raymedlt.runreport.page import Block, Column, Figure, KeyValues, Paragraph, Table

_WORDS = {None: "default", "": "none", True: "yes", False: "no"}


def time_bars(seconds: Mapping[str, float], startup_seconds: float) -> Figure:
    """Seconds per stage in their order, start-up apart in another colour."""
    earlier = " A stage that an earlier call had finished took this one no time." if 0.0 in seconds.values() else ""
    return bars(
        [*seconds, "start-up (Ray, imports)"],
        [*seconds.values(), startup_seconds],
        caption=f"{sum(seconds.values()):,.1f} s of work; {startup_seconds:,.1f} s of start-up, the same for any"
        f" amount of data, is listed apart.{earlier}",
        unit="seconds",
        digits=1,
        colours=[ACCENT] * len(seconds) + [QUIET],
    )


def rejected_blocks(
    reasons: Mapping[str, int], rows: Sequence[tuple[str, str, str]], paths: Mapping[str, str]
) -> list[Block]:
    """Reason -> rows, the commonest first, and the first rows themselves (row, source, reason).

    Args:
        paths: table -> where it lies, as it shall be shown; "rejected" counts.
    """
    if not reasons:
        return [Paragraph("No row was rejected.")]
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return [
        KeyValues([(reason, f"{number:,}") for reason, number in ranked]),
        Table(
            columns=[Column(name="Row", wide=True), Column(name="Source"), Column(name="Reason", wide=True)],
            rows=rows,
            total=sum(reasons.values()),
            where=paths.get("rejected", ""),
        ),
    ]


def configuration_blocks(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Block]:
    """Every setting, and which were changed; both as `raymedlt.config.flatten` gives them."""
    return [KeyValues([(key, _shown(value), _changed(value, defaults.get(key))) for key, value in config.items()])]


def _changed(value: Any, usual: Any) -> str:
    if value == usual:
        return ""
    return "changed" if usual is None else f"changed; the default is {_shown(usual)}"


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value)) or _WORDS[""]
    return _WORDS[value] if value is None or isinstance(value, bool) or value == "" else str(value)
