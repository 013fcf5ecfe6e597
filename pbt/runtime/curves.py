"""A trainable that trains nothing: learning curves in closed form, for sweeps in the simulator.

A member is a noisy quadratic: along each of a few directions, of curvature h, the squared distance v from the optimum
follows stochastic gradient descent exactly,

    v <- (1 - lr h)^2 v + lr^2 c h,    so that after n steps    v = f + (v0 - f) (1 - lr h)^2n,  f = lr c / (2 - lr h),

and the loss is the sum of h v / 2. A large learning rate is fast and ends high, a small one is slow and ends low, one
beyond 2 / h diverges: there is something for a population to find, at a cost that does not depend on the steps.

Source: Zhang et al. 2019, "Which Algorithmic Choices Matter at Which Batch Sizes? Insights From a Noisy Quadratic
Model", section 3; the gradient's covariance is c times the curvature, as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from trainables import Capabilities, HparamSpec, MetricSpec, Place, Shard, Stack, State, TrainableError
from trainables.arguments import check_pairs, check_slots, check_until
from trainables.base import Hparams, HparamValue, Metrics, Split
from trainables.core.hparams import HparamTable

_BUCKET = "simulated"
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_CURVATURES = np.array([1.0, 0.1, 0.01])
#: Names and shapes of a state's tensors, all float64.
_SHAPES = {"params.spread": (3,), "curve.start": (3,), "curve.setting": (2,), "curve.steps": ()}


@dataclass(frozen=True)
class SimulatedTrainable:
    """Learning curves in closed form: as cheap for a million steps as for one.

    Everything is a function of seed, `consumed`, hyperparameters and weights, so that what is trained again comes out
    bit for bit as before.

    Attributes:
        best: Hyperparameters besides `lr`, and their best values; away from these the gradient is noisier.
        noise: Variance c of the gradient, relative to the curvature.
        jitter: Standard deviation, relative, of what one run differs from another by.
        blur: Standard deviation, relative, of an evaluation.
        tokens_per_step: Tokens a member consumes in a step.
    """

    best: Mapping[str, float] = field(default_factory=dict)
    noise: float = 0.1
    jitter: float = 0.02
    blur: float = 0.01
    tokens_per_step: int = 1

    def describe(self) -> Capabilities:
        """`loss` to be minimised; `lr` and the names in `best` live."""
        others = {name: HparamSpec(kind="live", default=value) for name, value in self.best.items()}
        return Capabilities(
            metrics={"loss": MetricSpec(mode="min")},
            hparams={"lr": HparamSpec(kind="live", default=0.1, low=0.0), **others},
            splits=_SPLITS,
            tokens_per_step=self.tokens_per_step,
            rng="splitmix64",
            data={"source": "none: a closed form"},
        )

    def bucket(self, hparams: Hparams) -> str:
        """All members share one bucket."""
        return _BUCKET

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack."""
        if bucket != _BUCKET:
            raise TrainableError(f"bucket {bucket!r} is unknown; a simulated trainable has only {_BUCKET!r}")
        if capacity < 1:
            raise TrainableError(f"capacity is {capacity}; give a whole number of at least 1")
        return _Stack(self, capacity)


class _Stack:
    """Members as rows of arrays. Of each it is remembered where its curve began, with what, and how long ago."""

    def __init__(self, options: SimulatedTrainable, capacity: int) -> None:
        self.capacity = capacity
        self._options = options
        self._table = HparamTable(options.describe().hparams, capacity, torch.device("cpu"))
        self._rows = {name: row.numpy() for name, row in self._table.rows.items()}  # the same memory
        self._tensors = {name: np.zeros((capacity, *shape)) for name, shape in _SHAPES.items()}
        self._seed = np.zeros(capacity, dtype=np.uint64)
        self._age, self._consumed = (np.zeros(capacity, dtype=np.int64) for _ in range(2))
        self._seeds: list[int | None] = [None] * capacity  # None where nobody sits

    def admit(
        self, slot: int, hparams: Hparams, seed: int, state: State | None = None, consumed: int | None = None
    ) -> None:
        """Put a member into a slot; see `Stack.admit`."""
        check_slots([slot], self.capacity)
        numbers = self._table.checked(hparams)
        values = _fresh(int(seed)) if state is None else _loaded(state)
        for name, value in values.items():
            self._tensors[name][slot] = value
        self._table.fill(slot, numbers)
        age, own = (0, 0) if state is None else (state.age, state.consumed)
        self._seeds[slot] = int(seed)
        self._seed[slot] = int(seed) % 2**64
        self._age[slot], self._consumed[slot] = age, own if consumed is None else int(consumed)

    def evict(self, slot: int) -> State:
        """Return the member's state and free the slot."""
        state = self.state(slot)
        self._seeds[slot] = None
        return state

    def run(self, until: Sequence[int]) -> Metrics:
        """Train each slot until its `consumed` reaches its entry of `until`; see `Stack.run`."""
        check_until(until, self.capacity)
        taken = np.array([seed is not None for seed in self._seeds])
        steps = np.where(taken, np.maximum(0, np.asarray(until, dtype=np.int64) - self._consumed), 0)
        active = np.flatnonzero(steps)
        loss = np.full(self.capacity, np.nan)
        with np.errstate(all="ignore"):
            loss[active] = self._train(active, steps[active])
        return {"loss": loss}

    def _train(self, slots: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Train slots; returns the mean loss over the steps."""
        self._age[slots] += steps
        self._consumed[slots] += steps
        before = self._begin(slots)
        after = before + steps
        self._tensors["curve.steps"][slots] = after
        start, setting = self._tensors["curve.start"][slots], self._tensors["curve.setting"][slots]
        lr, noise = setting[:, :1], setting[:, 1:]
        floor = lr * noise / (2.0 - lr * _CURVATURES)
        rate = 2.0 * np.log(np.abs(1.0 - lr * _CURVATURES))  # log of the factor by which a step brings v to the floor
        shake = np.exp(self._options.jitter * _normal(_mix(self._seed[slots]) + self._consumed[slots].view(np.uint64)))
        spread = floor + (start - floor) * np.exp(after[:, None] * rate)
        self._tensors["params.spread"][slots] = spread * shake[:, None]
        share = np.exp((before[:, None] + 1.0) * rate) * np.expm1(steps[:, None] * rate) / np.expm1(rate)
        mean = np.where(rate == 0.0, start, floor + (start - floor) * share / steps[:, None])
        return _loss(mean)

    def _begin(self, slots: np.ndarray) -> np.ndarray:
        """Begin a new curve where hyperparameters are not those of the present one; returns the steps since."""
        setting = np.stack([self._rows["lr"][slots], self._noise(slots)], axis=1)
        turned = slots[(setting != self._tensors["curve.setting"][slots]).any(axis=1)]
        self._tensors["curve.start"][turned] = self._tensors["params.spread"][turned]
        self._tensors["curve.steps"][turned] = 0.0
        self._tensors["curve.setting"][slots] = setting
        return self._tensors["curve.steps"][slots]

    def _noise(self, slots: np.ndarray) -> np.ndarray:
        noise = np.full(len(slots), self._options.noise)
        for name, best in self._options.best.items():
            noise *= 1.0 + np.square((self._rows[name][slots] - best) / (abs(best) or 1.0))
        return noise

    def evaluate(self, split: Split, slots: Sequence[int]) -> Metrics:
        """Evaluate slots; a score is of the weights, whoever has them."""
        if split not in _SPLITS:
            raise TrainableError(f"split is {split!r}; give one of {', '.join(_SPLITS)}")
        self._check_members(slots)
        loss = np.full(self.capacity, np.nan)
        chosen = list(slots)
        spread = self._tensors["params.spread"][chosen]
        seen = np.bitwise_xor.reduce(_mix(spread.view(np.uint64) + np.arange(3, dtype=np.uint64)), axis=1)
        with np.errstate(all="ignore"):
            blur = self._options.blur * _normal(seen + np.uint64(1 + _SPLITS.index(split)))
            loss[chosen] = _loss(spread) * np.exp(blur)
        return {"loss": loss}

    def hparams(self, slot: int) -> dict[str, HparamValue]:
        """Read back the values in effect."""
        self._check_members([slot])
        return {name: float(row[slot]) for name, row in self._rows.items()}

    def set_hparams(self, slots: Sequence[int], **values: Sequence[HparamValue]) -> None:
        """Change hyperparameters; see `Stack.set_hparams`."""
        self._check_members(slots)
        self._table.change(slots, values)

    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        """Curve, weights and age of `src[i]` into `dst[i]`; see `Stack.copy`."""
        check_pairs(src, dst)
        self._check_members([*src, *dst])
        for array in (*self._tensors.values(), self._age):
            array[list(dst)] = array[list(src)]

    def state(self, slot: int) -> State:
        """Copy out the member's state, leaving it in place."""
        age, consumed = self.progress(slot)
        seed = self._seeds[slot]
        assert seed is not None
        shards = (Shard.whole(name, torch.from_numpy(np.array(array[slot]))) for name, array in self._tensors.items())
        return State(tuple(shards), age, consumed, seed)

    def progress(self, slot: int) -> tuple[int, int]:
        """`(age, consumed)` of the member in the slot."""
        self._check_members([slot])
        return int(self._age[slot]), int(self._consumed[slot])

    def _check_members(self, slots: Sequence[int]) -> None:
        check_slots(slots, self.capacity)
        for slot in slots:
            if self._seeds[slot] is None:
                raise TrainableError(f"slot {slot} is empty; admit a member first")


def _loss(spread: np.ndarray) -> np.ndarray:
    return (0.5 * _CURVATURES * spread).sum(axis=1)


def _fresh(seed: int) -> dict[str, np.ndarray | float]:
    """Every direction contributes about 1 to the loss."""
    words = _mix(np.array([seed % 2**64], dtype=np.uint64)) + np.arange(1, 4, dtype=np.uint64)
    spread = 2.0 / _CURVATURES * np.exp(0.1 * _normal(words))
    return {"params.spread": spread, "curve.start": spread, "curve.setting": np.full(2, np.nan), "curve.steps": 0.0}


def _loaded(state: State) -> dict[str, np.ndarray]:
    given = {shard.name: shard.tensor for shard in state.shards}
    missing, extra = sorted(_SHAPES.keys() - given), sorted(given.keys() - _SHAPES.keys())
    if missing or extra:
        raise TrainableError(f"state does not fit: missing {missing[:3]}, unexpected {extra[:3]}")
    for name, shape in _SHAPES.items():
        if (found := tuple(given[name].shape)) != shape:
            raise TrainableError(f"state does not fit: {name} has shape {found}, not {shape}")
    return {name: given[name].numpy() for name in _SHAPES}


_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(words: np.ndarray) -> np.ndarray:
    """SplitMix64: `(n,)` uint64 words from as many, wrapping.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figures 16-17.
    """
    words = words + _GAMMA
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))


def _normal(words: np.ndarray) -> np.ndarray:
    """A standard normal number for each word, by Box and Muller's method."""
    first, second = _mix(words), _mix(_mix(words))
    radius = np.sqrt(-2.0 * np.log(_uniform(first)))
    turned: np.ndarray = radius * np.cos(2.0 * np.pi * _uniform(second))
    return turned


def _uniform(words: np.ndarray) -> np.ndarray:
    """In (0, 1)."""
    open_: np.ndarray = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54
    return open_
