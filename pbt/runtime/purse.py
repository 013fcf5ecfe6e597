"""What a running sweep has spent of its budget, and when that ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pbt.runtime.budget import Forecast, Limits, Usage, exceeded, seconds_left
from pbt.runtime.orders import StackReport
from pbt.spec import Budget

#: Share of a limit on time that training leaves to the last evaluation and to saving; more while no evaluation has
#: been timed.
_RESERVE, _UNKNOWN = 0.02, 0.1


class Purse:
    """Keeps account of one session, on top of what earlier ones spent.

    Args:
        budget: The limits.
        before: What earlier sessions used.
        tokens_per_step: Tokens a member consumes in a step.
        clock: Seconds, from any beginning.
        devices: That a stack takes while it works.
    """

    def __init__(
        self,
        budget: Budget,
        before: Usage,
        tokens_per_step: int,
        clock: Callable[[], float],
        devices: float = 1.0,
    ) -> None:
        self._before, self._tokens_per_step, self._clock, self._devices = before, tokens_per_step, clock, devices
        self._began = clock()
        self._spent = Usage()
        self._forecasts: dict[int, Forecast] = {}
        self._evaluation_s = 0.0
        self.num_ends = 0
        self.extend(budget)

    def extend(self, budget: Budget) -> None:
        """Another budget holds from now on."""
        self._budget, self._limits = budget, Limits.of(budget)
        self._is_over = False

    def end(self) -> None:
        """The strategy has been told that the budget is over."""
        self._is_over = True
        self.num_ends += 1

    def spend(self, report: StackReport, steps: int, weighed: float | None = None) -> None:
        """Take in what an order cost.

        Args:
            report: Of the order.
            steps: Trained by all members together; 0 in a recovery.
            weighed: The same in usual steps, where members' steps take more or fewer tokens than these.
        """
        device_s, tokens = self._devices * report.wall_s, self._tokens(steps if weighed is None else weighed)
        self._spent += Usage(device_s=device_s, joules=report.joules, tokens=tokens)
        self._evaluation_s = max(self._evaluation_s, report.evaluation_s)
        if report.stack not in self._forecasts:
            self._forecasts[report.stack] = Forecast()  # the first order may have compiled
            return
        longest = steps // max(1, len(report.segments))
        cost = Usage(wall_s=report.wall_s, device_s=device_s, joules=report.joules)
        self._forecasts[report.stack] = self._forecasts[report.stack].observe(cost, longest)

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return self._limits != Limits()

    def used_now(self) -> dict[str, Any]:
        """What this session has used, as a row of the ledger's `usage`."""
        used = self._session()
        return {"wall_s": used.wall_s, "device_s": used.device_s, "joules": used.joules, "tokens": used.tokens}

    def following(self, consumed: int) -> int:
        """Steps of the segment that would follow for a member that has consumed so many."""
        return max(0, min(self._budget.steps, self._budget.generations * self._budget.steps - consumed))

    def exhausted(
        self, under_way: float, following: int, was_cut: bool, num_stacks: int, share: float = 1.0
    ) -> str | None:
        """Why there is not enough left for the steps under way and those that would follow; None if there is.

        Told once: the strategy orders nothing more after that.

        Args:
            under_way: Steps being trained, all members together, in usual steps.
            following: Steps that would follow, all members together.
            was_cut: Whether a segment had to be cut short.
            num_stacks: Stacks of the sweep.
            share: Tokens of a step that would follow, at most, in those of a usual one.
        """
        if self._is_over or following == 0:
            return None
        reason = self._problem(under_way, following, was_cut, num_stacks, share)
        if reason is not None:
            self.end()
        return reason

    def _problem(self, under_way: float, following: int, was_cut: bool, num_stacks: int, share: float) -> str | None:
        per_member = following // max(1, -(-following // self._budget.steps))
        spent = self._before + self._session() + Usage(tokens=self._tokens(under_way))
        another = self._next_round(per_member, self._tokens(following * share))
        if (reason := exceeded(self._limits, spent, another)) is not None:
            return reason
        if was_cut:
            return "the time is used up: segments had to be cut short"
        reserve_s = self._reserve_s(num_stacks)
        reserve = Usage(wall_s=reserve_s, device_s=reserve_s * num_stacks * self._devices)
        if exceeded(self._limits, spent, another + reserve):
            return "the time is used up: what is left is kept for evaluating and saving"  # segments would be cut
        return None

    def seconds_left(self, num_stacks: int, busy_s: float, is_recovery: bool = False) -> float | None:
        """How long an order given now may train; None if no limit is on time or energy.

        Args:
            num_stacks: Stacks of the sweep.
            busy_s: Seconds that the orders now under way have taken so far, summed.
            is_recovery: Whether it trains again what was lost: that may take all there is, since without it there is
                nothing to evaluate or save.
        """
        spent = self._before + self._session() + Usage(device_s=self._devices * busy_s)
        left = seconds_left(self._limits, spent, devices=self._devices * num_stacks, watts=self._watts())
        if left is None:
            return None
        return left if is_recovery else max(0.0, left - self._reserve_s(num_stacks))

    def _tokens(self, weighed: float) -> int:
        """Of so many usual steps."""
        return round(weighed * self._tokens_per_step)

    def _reserve_s(self, num_stacks: int) -> float:
        """Seconds that are kept for the last evaluations and for saving."""
        share = _RESERVE if self._evaluation_s else _UNKNOWN
        # At worst one host evaluates all stacks, one after another, and then the winner.
        evaluations = 1.1 * self._evaluation_s * (num_stacks + 1)
        return max(evaluations, share * min(self._limits.seconds, default=0.0))

    def _session(self) -> Usage:
        return self._spent + Usage(wall_s=self._clock() - self._began)

    def _next_round(self, steps: int, tokens: int) -> Usage:
        """Stacks work side by side: their time is the longest, everything else adds up."""
        costs = [forecast.of(steps=steps, tokens=0) for forecast in self._forecasts.values()]
        together = Usage(tokens=tokens)
        for cost in costs:
            together += Usage(device_s=cost.device_s, joules=cost.joules)
        return together + Usage(wall_s=max((cost.wall_s for cost in costs), default=0.0))

    def _watts(self) -> float | None:
        return max((watts for each in self._forecasts.values() if (watts := each.watts) is not None), default=None)
