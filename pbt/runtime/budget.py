"""What a sweep has used, what another generation will take, and whether that fits inside its budget.

Pure bookkeeping: time and energy are measured elsewhere and handed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pbt.errors import SpecError
from pbt.spec import Budget, require

#: A forecast allows for this much more than was seen.
_MARGIN = 1.1
#: Number of rounds a forecast looks back on.
_RECENT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What training took. Usages add up.

    Attributes:
        wall_s: Seconds that went by.
        device_s: Seconds that devices worked, summed over all of them.
        joules: Energy of the devices; None where part of it could not be read, so that the sum is not known.
        tokens: Tokens (or examples), all members together.
    """

    wall_s: float = 0.0
    device_s: float = 0.0
    joules: float | None = 0.0
    tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Both together."""
        known = self.joules is not None and other.joules is not None
        return Usage(
            wall_s=self.wall_s + other.wall_s,
            device_s=self.device_s + other.device_s,
            joules=self.joules + other.joules if known else None,  # type: ignore[operator]
            tokens=self.tokens + other.tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a budget, in the units of `Usage`; None is no limit."""

    wall_s: float | None = None
    device_s: float | None = None
    joules: float | None = None
    tokens: int | None = None

    @classmethod
    def of(cls, budget: Budget) -> Limits:
        """The limits a budget sets."""
        return cls(
            wall_s=None if budget.wall_minutes is None else 60.0 * budget.wall_minutes,
            device_s=None if budget.gpu_hours is None else 3600.0 * budget.gpu_hours,
            joules=budget.joules,
            tokens=budget.tokens,
        )

    @property
    def seconds(self) -> list[float]:
        """Those on time, of the clock and of devices."""
        return [limit for limit in (self.wall_s, self.device_s) if limit is not None]


def exceeded(limits: Limits, spent: Usage, next_round: Usage) -> str | None:
    """Why another generation does not fit inside the budget, in words; None if it does.

    Args:
        limits: The limits.
        spent: What the whole sweep has used, earlier sessions included.
        next_round: What another generation is expected to take (`Forecast.of`); what is not known is 0, which fits as
            long as anything is left.
    """
    if limits.tokens is not None and not _fits(limits.tokens, spent.tokens, next_round.tokens):
        takes = f", and another generation takes {next_round.tokens:,}" if next_round.tokens else ""
        return f"the tokens are used up: {spent.tokens:,} of {limits.tokens:,}{takes}"
    if limits.wall_s is not None and not _fits(limits.wall_s, spent.wall_s, next_round.wall_s):
        return _used_up("wall time", "minutes", 60.0, limits.wall_s, spent.wall_s, next_round.wall_s)
    if limits.device_s is not None and not _fits(limits.device_s, spent.device_s, next_round.device_s):
        return _used_up("GPU time", "hours", 3600.0, limits.device_s, spent.device_s, next_round.device_s)
    if limits.joules is None:
        return None
    if spent.joules is None or next_round.joules is None:
        return f"the energy cannot be read, so that it is not known what is left of {_tell(limits.joules)} joules"
    if not _fits(limits.joules, spent.joules, next_round.joules):
        return _used_up("energy", "joules", 1.0, limits.joules, spent.joules, next_round.joules)
    return None


def _fits(limit: float, spent: float, more: float) -> bool:
    return spent < limit and spent + more <= limit


def _used_up(what: str, unit: str, size: float, limit: float, spent: float, more: float) -> str:
    takes = f", and another generation takes about {_tell(more / size)}" if more else ""
    return f"the {what} is used up: {_tell(spent / size)} of {_tell(limit / size)} {unit}{takes}"


def _tell(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def seconds_left(limits: Limits, spent: Usage, *, devices: float, watts: float | None = None) -> float | None:
    """How long all stacks may go on from now, at most; None if nothing limits that.

    If a stack that starts now stops after so long, and every other stack was given its own answer when it started,
    then time and GPU time are kept, in whatever order stacks start. So is energy, as far as `watts` is right.

    Args:
        limits: The limits.
        spent: What the whole sweep has used up to now, by stacks still at work too.
        devices: Of all stacks.
        watts: Power of a device (`Forecast.watts`); None does not foresee energy.
    """
    left = []
    if limits.wall_s is not None:
        left.append(limits.wall_s - spent.wall_s)
    if limits.device_s is not None:
        left.append((limits.device_s - spent.device_s) / devices)
    if limits.joules is not None and watts and spent.joules is not None:
        left.append((limits.joules - spent.joules) / (devices * watts))
    return max(0.0, min(left)) if left else None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What another generation will take, from what recent ones took.

    Attributes:
        recent: What each of the last rounds took per training step, oldest first; tokens are not forecast.
    """

    recent: tuple[Usage, ...] = ()

    def observe(self, cost: Usage, steps: int) -> Forecast:
        """The forecast after another round.

        Leave out rounds in which stacks compiled: they say nothing of the next.

        Args:
            cost: What it took, from one round's end to the next.
            steps: Steps that each member trained, the most where they differ; without any it says nothing.
        """
        if steps < 1:
            return self
        joules = None if cost.joules is None else cost.joules / steps
        each = replace(cost, wall_s=cost.wall_s / steps, device_s=cost.device_s / steps, joules=joules, tokens=0)
        return Forecast((*self.recent, each)[-_RECENT:])

    def of(self, *, steps: int, tokens: int) -> Usage:
        """What the next round will take: the dearest of recent rounds, and a tenth more. Nothing seen is 0.

        Args:
            steps: Steps that each member will train.
            tokens: Tokens that all members will consume, which is known.
        """
        scale = _MARGIN * steps
        return Usage(
            wall_s=scale * max((each.wall_s for each in self.recent), default=0.0),
            device_s=scale * max((each.device_s for each in self.recent), default=0.0),
            joules=scale * max((each.joules for each in self.recent if each.joules is not None), default=0.0),
            tokens=tokens,
        )

    @property
    def watts(self) -> float | None:
        """Power of a device: the highest of recent rounds, and a tenth more; None before any was seen."""
        seen = [each.joules / each.device_s for each in self.recent if each.joules and each.device_s]
        return _MARGIN * max(seen) if seen else None


def check_limits(budget: Budget, device: str, can_read_energy: bool, *, tokens_per_step: int) -> None:
    """Refuse limits that cannot be watched, and a limit on tokens that not even one generation fits into.

    Args:
        budget: The budget.
        device: Where members train, settled: `cpu`, `cuda` or `cuda:1`.
        can_read_energy: Whether the GPUs' energy can be read (`pbt.runtime.meter.can_measure`).
        tokens_per_step: Tokens a member consumes in a step.

    Raises:
        SpecError: A limit cannot be kept.
    """
    on_gpu = device.partition(":")[0] == "cuda"
    if budget.gpu_hours is not None and not on_gpu:
        problem = f"is {budget.gpu_hours:g}, but members train on {device!r}"
        raise SpecError("budget.gpu_hours", problem, "Write budget.wall_minutes, or set hosts.device: cuda")
    if budget.joules is not None and not on_gpu:
        problem = f"is {budget.joules:g}, but members train on {device!r}: limits on energy are kept on GPUs only"
        raise SpecError("budget.joules", problem, "Write budget.wall_minutes, or set hosts.device: cuda")
    if budget.joules is not None and not can_read_energy:
        problem = f"is {budget.joules:g}, but the energy of the GPUs cannot be read"
        raise SpecError("budget.joules", problem, "Install nvidia-ml-py, or write budget.gpu_hours")
    one = budget.members * budget.steps * tokens_per_step
    require(
        budget.tokens is None or budget.tokens >= one,
        "budget.tokens",
        f"{budget.tokens} are fewer than one generation takes",
        f"Write {one} or more, or lower budget.members or budget.steps",
    )
