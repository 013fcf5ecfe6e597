"""The ready schedules, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from trainables.core.schedules.base import Schedule
from trainables.core.schedules.constant import Constant
from trainables.core.schedules.cooldown import Cooldown
from trainables.core.schedules.decay import Decay
from trainables.core.schedules.in_tokens import InTokens
from trainables.core.schedules.inverse_sqrt import InverseSqrt
from trainables.core.schedules.piecewise import Piecewise
from trainables.core.schedules.power import Power
from trainables.core.schedules.rewarm import Rewarm
from trainables.core.schedules.warmup import Warmup, WarmupCosine
from trainables.errors import TrainableError, nearest

#: What durations may be given in.
UNITS = ("steps", "tokens")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a trainable tells a schedule about itself.

    Attributes:
        batch_size: Sequences (or examples) of one member in a step.
        tokens_per_step: Tokens (or examples) of one member in a step.
        num_knots: Knots of piecewise schedules.
    """

    batch_size: int = 1
    tokens_per_step: int = 1
    num_knots: int = 8


def _wsd(shape: str) -> Schedule:
    return Warmup(Cooldown(Constant(), Decay(shape)))


def _power(setting: Setting) -> Schedule:
    power = Power(setting.batch_size, setting.tokens_per_step)
    return Warmup(Cooldown(power, Decay("exponential"), begins="decay_start_steps"), shifts=False)


def _piecewise(setting: Setting, interpolation: str) -> Schedule:
    return Warmup(Piecewise(setting.num_knots, interpolation), shifts=False)


#: Schedules by name, all with a warm-up. A new one is one entry.
SCHEDULES: Mapping[str, Callable[[Setting], Schedule]] = MappingProxyType(
    {
        "constant": lambda setting: Warmup(Constant()),
        "linear": lambda setting: Warmup(Decay("linear")),
        "cosine": lambda setting: WarmupCosine(),
        "inverse_sqrt": lambda setting: Warmup(InverseSqrt()),
        "wsd": lambda setting: _wsd("1-sqrt"),
        "wsd_linear": lambda setting: _wsd("linear"),
        "wsd_exponential": lambda setting: _wsd("exponential"),
        "wsd_cosine": lambda setting: _wsd("cosine"),
        "power": _power,
        "piecewise": lambda setting: _piecewise(setting, "constant"),
        "piecewise_linear": lambda setting: _piecewise(setting, "linear"),
        "rewarmed_cosine": lambda setting: Rewarm(WarmupCosine(), after=Decay("cosine")),
    }
)


def build(name: str, setting: Setting, unit: str = "steps") -> Schedule:
    """Make a ready schedule.

    Args:
        name: A name in `SCHEDULES`.
        setting: What it is made for.
        unit: `steps`, or `tokens` for durations in tokens.

    Raises:
        TrainableError: The name or the unit is unknown.
    """
    for what, value, known in (("schedule", name, tuple(SCHEDULES)), ("schedule unit", unit, UNITS)):
        if value not in known:
            raise TrainableError(f"{what} {value!r} is unknown; {nearest(str(value), known)}")
    made = SCHEDULES[name](setting)
    return InTokens(made, setting.tokens_per_step, setting.batch_size) if unit == "tokens" else made
