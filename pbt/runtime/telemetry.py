"""What is measured of a stack at work, and what that makes for each of its members."""

from __future__ import annotations

from collections.abc import Sequence

from pbt.runtime.meter import Gauge, Meter, meter_for
from pbt.runtime.nodes import NodeMonitor
from pbt.runtime.orders import Reading, StackReport
from trainables.base import Place
from trainables.core.telemetry import peak_flops, take_peak_memory


class Telemetry:
    """Reads a device for all stacks of this process on it. Made by the process that trains.

    Args:
        place: The device, and the precision.
        meter: Its energy; None finds out how it can be read.
        share: How much of the device this process has: of its energy, as much is taken to be its own.
        node: Tells the node this process is on from the others of the sweep.
    """

    def __init__(self, place: Place, meter: Meter | None = None, share: float = 1.0, node: str = "") -> None:
        self._device, self._share = place.device, share
        self._peak_flops = peak_flops(place)
        self._gauge = Gauge(meter_for(place.device) if meter is None else meter)
        self._node = NodeMonitor(node).start()

    def take(self) -> Reading:
        """What the device used since it was last asked, whichever stack asked."""
        joules, node = self._gauge.take(), self._node.take()
        return Reading(
            joules=None if joules is None else self._share * joules,
            peak_memory_bytes=take_peak_memory(self._device),
            peak_flops=self._peak_flops,
            nodes=() if node is None else (node,),
        )


def together(readings: Sequence[Reading]) -> Reading:
    """What several devices tell that work on the same: energy and peak of all, memory of the fullest."""
    joules, flops = [reading.joules for reading in readings], [reading.peak_flops for reading in readings]
    memory = [reading.peak_memory_bytes for reading in readings if reading.peak_memory_bytes is not None]
    return Reading(
        joules=None if None in joules else sum(filter(None, joules)),
        peak_flops=None if None in flops else sum(filter(None, flops)),
        peak_memory_bytes=max(memory, default=None),
        nodes=tuple(node for reading in readings for node in reading.nodes),
    )


def measured(report: StackReport, steps: int, tokens_per_step: float, flops_per_step: float | None) -> dict[str, float]:
    """What was measured of a member's segment, by name; what is not known is left out.

    The members of a stack train side by side: each member's rate is over the whole time of the stack's training, and
    the rates of all are the stack's.

    Args:
        report: Of the order that trained it.
        steps: The member's, in that order.
        tokens_per_step: Tokens a member consumes in a step.
        flops_per_step: Model FLOPs of a member's step, if the trainable says.

    Returns:
        `tokens_per_s` (of training alone: no evaluation, no copying); `mfu`, where model FLOPs and the peak of the
        device are known; `memory_bytes` of the member's own state; `peak_memory_bytes` of the process.
    """
    found: dict[str, float] = {}
    if steps and report.training_s:
        found["tokens_per_s"] = steps * tokens_per_step / report.training_s
        if flops_per_step is not None and report.peak_flops:
            found["mfu"] = steps * flops_per_step / report.training_s / report.peak_flops
    for name, held in (("memory_bytes", report.member_bytes), ("peak_memory_bytes", report.peak_memory_bytes)):
        if held is not None:
            found[name] = float(held)
    return found
