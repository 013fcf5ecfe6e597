"""Processes of Ray's actors on this machine, as the system sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def of_actors(kind: str) -> list[int]:
    """Process numbers of the living actors of a class."""
    return sorted(int(process.name) for process in _processes(kind))


def cpu_s(kind: str) -> float:
    """Seconds of CPU time that the actors of a class have used so far, all together."""
    total = 0
    for process in _processes(kind):
        try:
            user, system = (process / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
        except OSError:  # it has just ended
            continue
        total += int(user) + int(system)
    return total / _TICKS_PER_S


def _processes(kind: str) -> Iterator[Path]:
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cmdline").read_bytes().startswith(f"ray::{kind}".encode()):
                yield process
        except OSError:
            continue
