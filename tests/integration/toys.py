"""A sweep to be disturbed from outside: the paper's toy, of which a segment takes a while."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbt import PBT, Budget, Checkpoints, Hosts, Result, Sweep
from searchspaces import Float
from trainables import Quadratic

SPACE = {"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0), "lr": Float(1e-3, 1e-1, log=True)}
GENERATIONS = 24


@dataclass(frozen=True)
class Slow:
    """Stacks leave the number of their process in a folder."""

    folder: str
    seconds: float = 0.05

    def describe(self) -> Any:
        return Quadratic().describe()

    def bucket(self, hparams: Mapping[str, Any]) -> str:
        return Quadratic().bucket(hparams)

    def build(self, bucket: str, capacity: int, place: Any) -> Any:
        (Path(self.folder) / str(os.getpid())).touch()
        return SlowStack(Quadratic().build(bucket, capacity, place), self)


class SlowStack:
    """Waits before it trains; and for ever, once somebody has left a file that says so."""

    def __init__(self, stack: Any, owner: Slow) -> None:
        self._stack, self._owner = stack, owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def run(self, until: Sequence[int]) -> Any:
        time.sleep(self._owner.seconds)
        hang = Path(self._owner.folder) / f"hang-{os.getpid()}"
        while hang.exists():
            time.sleep(0.1)
        return self._stack.run(until)


def sweep(storage: Path, kind: str, generations: int = GENERATIONS, **hosts: Any) -> Sweep:
    """Seven members on two stacks: exploits cross stacks."""
    folder = storage / "processes"
    folder.mkdir(parents=True)
    return Sweep(
        name="toy",
        trainable=Slow(str(folder), 0.0 if kind == "local" else 0.05),
        space=SPACE,
        objective="Q",
        strategy=PBT(quantile=0.3),
        budget=Budget(members=7, generations=generations, steps=10),
        checkpoints=Checkpoints(every_steps=30),
        hosts=Hosts(kind=kind, stacks=2, **hosts),  # type: ignore[arg-type]
        storage=storage,
        tracking=False,
    )


def hosts_of(storage: Path) -> list[int]:
    """Processes that have built a stack, and are alive."""
    known = sorted(int(path.name) for path in (storage / "processes").iterdir() if path.name.isdigit())
    return [number for number in known if is_alive(number)]


def is_alive(number: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def kinds(result: Result) -> list[str]:
    """Of what went wrong."""
    return [row["kind"] for row in result.rows["incidents"]]
