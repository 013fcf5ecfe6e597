"""What a picture is of: the best member, its ancestry, and the hyperparameters that vary, each on its scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pbt.member import Hparams
from pbt.record.frame import Floats, Ints
from pbt.record.result import Result

CONSUMED = "training steps of each member"
AGE = "age: training steps of the weights"


def best_member(result: Result) -> int | None:
    """The winner; before there is one, the living member with the best last score."""
    if result.winner is not None:
        return result.winner
    leader = result.frame.leader(mode(result))
    return None if leader is None else int(result.frame.member[leader])


def best_entries(result: Result) -> Ints:
    """Entries of the frame that made the best member's weights, root first; none if nobody has a score."""
    frame, best = result.frame, best_member(result)
    if best is None:
        return np.empty(0, dtype=np.int64)
    own = frame.ends[frame.member[frame.ends] == best]
    return frame.path(int(own[0]))


def mode(result: Result) -> str:
    """`min` or `max`."""
    return str(result.run.info["objective"]["mode"])


def best_so_far(scores: Floats, mode: str) -> Floats:
    """The best of the scores up to each; NaN before the first that is a number."""
    lowest = mode == "min"
    known = np.where(np.isnan(scores), np.inf if lowest else -np.inf, scores)
    best = (np.minimum if lowest else np.maximum).accumulate(known) if len(known) else known
    return np.where(np.isinf(best), np.nan, best)


def steps(result: Result) -> int:
    """Training steps of a member in a generation."""
    return int(result.run.info["spec"]["budget"]["steps"])


def unit(info: Mapping[str, Any]) -> str:
    """Of the objective's metric, or empty."""
    return str(info["metrics"].get(info["objective"]["metric"], {}).get("unit", ""))


def is_synchronous(result: Result) -> bool:
    """Whether all members were compared after the same number of steps of their own."""
    return bool(result.run.info["spec"]["strategy"].get("options", {}).get("synchronous", True))


def boundaries(result: Result) -> set[float]:
    """Steps at which segments ended."""
    frame = result.frame
    return set(np.unique(frame.consumed[frame.is_ended, 1]).tolist())


def rounds(result: Result) -> Floats:
    """How many generations' worth of steps the weights of each segment have at its end; NaN without one."""
    return np.ceil(result.frame.age[:, 1] / steps(result))


def spans(result: Result) -> Floats:
    """Age at start and end of each segment; one under way is as long as a generation. `(segments, 2)`."""
    age = result.frame.age
    return np.column_stack([age[:, 0], np.where(np.isnan(age[:, 1]), age[:, 0] + steps(result), age[:, 1])])


# ------------------------------------------------------------------------------------------------ hyperparameters


@dataclass(frozen=True)
class Varied:
    """A hyperparameter that varies, or one part of a simplex.

    Attributes:
        name: Its name, as people write it: of a part, `mix/books`, as in MLflow.
        keys: How to reach its value among the hyperparameters.
        domain: What it may be.
        parts: All parts of the simplex that it is a part of.
    """

    name: str
    keys: tuple[str, ...]
    domain: Mapping[str, Any]
    parts: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Its name over a picture."""
        return f"{self.name} (the rest is {self.parts[1]})" if len(self.parts) == 2 else self.name

    @property
    def is_rest(self) -> bool:
        """Whether it is all that another leaves, so that a picture of that one shows it, too."""
        return len(self.parts) == 2 and self.keys[-1] == self.parts[1]

    @property
    def options(self) -> list[Any]:
        """What a choice may be; empty if it is none."""
        return list(self.domain.get("options", ()))

    @property
    def scale(self) -> Literal["linear", "log", "nines"]:
        """How its axis runs: with `nines`, 0.9, 0.99 and 0.999 lie equally far apart."""
        return "log" if self.domain.get("log") else "nines" if self.domain.get("log_complement") else "linear"

    def height(self, hparams: Hparams) -> float | None:
        """Its value; that of a choice by the option's place. None where it is not active."""
        value: Any = hparams
        for key in self.keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if "options" in self.domain:
            return _place(self.options, value)
        return None if value is None else float(value)

    def place(self, heights: Floats) -> Floats:
        """Where values lie between the bounds: 0 is the lowest, 1 the highest; NaN stays NaN."""
        if self.options:
            return (heights + 0.5) / len(self.options)
        low, high = (self._bend(np.array([float(self.domain[end])])) for end in ("low", "high"))
        return np.clip((self._bend(heights) - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)

    def value(self, places: Floats) -> Floats:
        """The values that lie there: the other way round. For numbers only."""
        low, high = (self._bend(np.array([float(self.domain[end])])) for end in ("low", "high"))
        bent = low + places * (high - low)
        if self.scale == "log":
            return np.asarray(np.exp(bent))
        return np.asarray(1.0 - 10.0**-bent if self.scale == "nines" else bent)

    def _bend(self, values: Floats) -> Floats:
        if self.scale == "log":
            return np.asarray(np.log(values))
        return np.asarray(-np.log10(np.maximum(1.0 - values, 1e-12)) if self.scale == "nines" else values)


def _place(options: list[Any], value: Any) -> float | None:
    """Which option it is: `False` is not 0, and 1 is not `True`."""
    alike = (number for number, option in enumerate(options) if option == value and type(option) is type(value))
    found = next(alike, options.index(value) if value in options else None)
    return None if found is None else float(found)


def varied(result: Result) -> list[Varied]:
    """The hyperparameters that vary, in the order of the sweep; parts of a simplex one by one, those that tell more."""
    return [one for one in parts(result) if not one.is_rest]


def parts(result: Result) -> list[Varied]:
    """The hyperparameters that vary, with all parts of a simplex."""
    return [one for name, domain in result.run.info["hparams"].items() for one in _parts(name, domain)]


def _parts(name: str, domain: Mapping[str, Any]) -> Iterator[Varied]:
    if domain.get("type") != "simplex":
        yield Varied(name, (name,), domain)
        return
    share = {"type": "float", "low": 0.0, "high": 1.0}
    for part in domain["parts"]:
        yield Varied(f"{name}/{part}", (name, part), share, tuple(domain["parts"]))
