"""Numbers, times and hyperparameters as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pbt.lineage import ScheduleStep


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits: `1.305`, `0.0003`, `1.2e-05`; `-` for None."""
    if value is None:
        return "-"
    if math.isnan(value):
        return "nan"
    return f"{value:.{digits}g}" if abs(value) < 1e6 or math.isinf(value) else f"{value:.{digits}e}"


def score(value: float | None) -> str:
    """A score with four digits after the point, so that columns line up; `diverged` for NaN."""
    return "diverged" if value is not None and math.isnan(value) else metric(value)


def metric(value: float | None) -> str:
    """Any metric as `score` has it; of one that is NaN nothing is known but that."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:.4f}" if 1e-2 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"


def trained_by(step: ScheduleStep) -> str:
    """Who trained a stretch of a schedule, and whether its weights were shrunk and perturbed first."""
    return f"member {step.member}" + (", weights shrunk" if step.shrink else "")


def hparam(value: Any) -> str:
    """A hyperparameter's value: three digits of a float, `yes` or `no` for a bool, parts of a simplex in percent."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 3)
    if isinstance(value, Mapping):
        return " ".join(f"{part} {100 * weight:.0f}%" for part, weight in value.items())
    return "-" if value is None else str(value)


def headline(incident: Mapping[str, Any]) -> str:
    """What went wrong, in a line; a traceback may follow it."""
    return str(incident.get("message") or incident["kind"].replace("_", " ")).partition("\n")[0]


def duration(seconds: float) -> str:
    """Seconds as `0:07`, `12:40` or `3:05:00`."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def count(amount: int, noun: str) -> str:
    """`1 exploit`, `2 exploits`."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def members(numbers: Iterable[int]) -> str:
    """`member 3`, `members 1, 2 and 5`."""
    *most, last = sorted(numbers)
    return f"members {', '.join(map(str, most))} and {last}" if most else f"member {last}"


def speed(tokens_per_s: float, mfu: float | None = None) -> str:
    """`8,532 tokens/s, MFU 31.2%`; without the latter where it is not known."""
    tokens = f"{tokens_per_s:,.0f}" if tokens_per_s >= 100 else number(tokens_per_s, 3)
    return f"{tokens} tokens/s" + ("" if mfu is None else f", MFU {100 * mfu:.1f}%")


def size(num_bytes: float) -> str:
    """Bytes as `812 B`, `4.1 kB`, `2.3 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
