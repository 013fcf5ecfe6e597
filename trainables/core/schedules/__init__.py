"""Learning-rate schedules: a per-member multiplier of `lr` as a function of age.

A schedule reads `age`, the steps in the ancestry of the weights, not `consumed`: a member that copies a donor goes on
where the donor was. What it depends on is live, one value a member; 0 for a duration switches the phase off.

Small schedules are put together: `Warmup(Cooldown(Constant(), Decay("1-sqrt")))` is warmup-stable-decay. `build` makes
the ready ones by name.
"""

from trainables.core.schedules.base import Schedule
from trainables.core.schedules.constant import Constant
from trainables.core.schedules.cooldown import Cooldown
from trainables.core.schedules.decay import SHAPES, Decay
from trainables.core.schedules.in_tokens import InTokens
from trainables.core.schedules.inverse_sqrt import InverseSqrt
from trainables.core.schedules.piecewise import Piecewise
from trainables.core.schedules.power import Power
from trainables.core.schedules.registry import SCHEDULES, UNITS, Setting, build
from trainables.core.schedules.rewarm import Rewarm
from trainables.core.schedules.warmup import Warmup, WarmupCosine

__all__ = [
    "SCHEDULES",
    "SHAPES",
    "UNITS",
    "Constant",
    "Cooldown",
    "Decay",
    "InTokens",
    "InverseSqrt",
    "Piecewise",
    "Power",
    "Rewarm",
    "Schedule",
    "Setting",
    "Warmup",
    "WarmupCosine",
    "build",
]
