"""What stacks report, taken down in the ledger, and said as the strategy hears it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pbt.record.ledger import Ledger
from pbt.record.schema import canonical
from pbt.runtime.history import SegmentEnded, Told, evaluation_ended, segment_ended
from pbt.runtime.orders import Examination, SegmentResult, StackReport
from pbt.runtime.plan import Plan
from pbt.runtime.telemetry import measured


class Results:
    """Takes results down.

    Args:
        plan: Says what is decided by, and what a step costs.
        ledger: Records.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan, self._ledger = plan, ledger
        self._unasked: set[str] = set()  # of which it was told

    def ended(self, result: SegmentResult, report: StackReport, steps: int, joules: float | None) -> SegmentEnded:
        """A segment has ended.

        Args:
            result: How.
            report: Of the stack, of which it is a part.
            steps: That it trained.
            joules: Its share of the energy.
        """
        plan, share = self._plan, self._plan.share(result.held)
        tokens = share * plan.tokens_per_step
        flops = None if plan.flops_per_step is None else share * plan.flops_per_step
        system = measured(report, steps, tokens, flops)
        for split, metrics in (("train", result.training), (plan.split, result.evaluation), ("system", system)):
            self._record_metrics(result, split, metrics)
        failure, score = result.failure or self.unreported(result), self.score(result)
        self._ledger.append(
            "outcomes",
            member=result.member,
            segment=result.segment,
            status="failed" if failure else "ended",
            hparams_in_effect=canonical(dict(result.held)),
            age_end=result.age,
            consumed_end=result.consumed,
            score=None if failure else score,
            wall_s=report.wall_s,
            tokens=round(steps * tokens),
            flops=None if flops is None else steps * flops,
            joules=joules,
            reason=failure,
        )
        self._tell_unasked(result)
        return segment_ended(
            member=result.member,
            segment=result.segment,
            age=result.age,
            consumed=result.consumed,
            metrics={**self._on_split(result), plan.metric: score},
            wall_s=report.wall_s,
            failure=failure,
            order=report.order,
        )

    def examined(self, examination: Examination, segment: int) -> Told:
        """A member was evaluated besides, at the end of a segment."""
        member, split, metrics = examination.member, examination.split, examination.metrics
        at = {"member": member, "segment": segment, "split": split}
        at |= {"age": examination.age, "consumed": examination.consumed}
        for name, value in metrics.items():
            self._ledger.append("metrics", **at, name=name, value=value)
        self._ledger.append("evaluations", **at)
        return Told(evaluation_ended(member, segment, split, metrics))

    def unreported(self, result: SegmentResult) -> str | None:
        """What is wrong with a result that lacks the objective; None if it does not."""
        if self._plan.metric in result.evaluation:
            return None
        found = ", ".join(sorted(result.evaluation)) or "nothing"
        return (
            f"member {result.member}: evaluate did not report {self._plan.metric!r}, which its trainable describes; "
            f"it reported {found}. The member was stopped; mend the trainable's evaluate."
        )

    def score(self, result: SegmentResult) -> float:
        """The objective; NaN wherever it is not a finite number: an infinite score is a diverged one, not a record."""
        score = result.evaluation.get(self._plan.metric, math.nan)
        return score if math.isfinite(score) else math.nan

    def _tell_unasked(self, result: SegmentResult) -> None:
        """Once of each: a member's record says when else."""
        for name in result.unasked:
            if name not in self._unasked:
                self._unasked.add(name)
                message = (
                    f"{name} is not in effect: the training function did not ask for it since it was changed. Have it "
                    "read what adapt.hparams() returns, or leave it out of the space."
                )
                at = {"member": result.member, "segment": result.segment}
                self._ledger.append("incidents", kind="not_in_effect", **at, message=message)

    def _on_split(self, result: SegmentResult) -> Mapping[str, float]:
        """All that is on record for the split that decides; of the training split, what training itself saw too."""
        return {**result.training, **result.evaluation} if self._plan.split == "train" else result.evaluation

    def _record_metrics(self, result: SegmentResult, split: str, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._ledger.append(
                "metrics",
                member=result.member,
                segment=result.segment,
                split=split,
                name=name,
                value=value,
                age=result.age,
                consumed=result.consumed,
            )
