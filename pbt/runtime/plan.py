"""What a brain is told of its sweep before it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pbt.member import Hparams, Slot
from pbt.spec import Budget, Checkpoints
from pbt.strategy import Task
from searchspaces import Choice, Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Who takes up the sweep, with what: recorded once.

    Attributes:
        reason: `start`, `resume` or `extend`.
        software: Versions by package.
        hardware: What the machine is.
        git_commit: Commit of the folder the sweep was started in, if any.
        spec: The spec in force, as JSON-able data.
        place: Device, dtype and compile setting of all stacks, and what makes random numbers.
        extension: New spec and slots as canonical JSON, and which extension of the sweep this is, counted from 1.
    """

    reason: str = "start"
    software: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    git_commit: str | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    place: Mapping[str, str] = field(default_factory=dict)
    extension: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PerExample:
    """Members with batch sizes of their own: what a step takes is in proportion to a hyperparameter.

    Attributes:
        name: Of the hyperparameter.
        usual: Its value where a step takes what the plan says.
        most: Its largest value in the sweep's space, which may become wider.
    """

    name: str
    usual: float
    most: float = 0.0

    def in_space(self, space: Space) -> PerExample:
        """The same in a sweep of this space, which has it."""
        domain = space[self.name]
        values = domain.options if isinstance(domain, Choice) else [getattr(domain, "high", self.usual)]
        return replace(self, most=max(value for value in values if isinstance(value, int | float)))

    def share(self, hparams: Hparams) -> float:
        """What a step takes with these hyperparameters, in usual steps."""
        value = hparams.get(self.name, self.usual)
        assert isinstance(value, int | float)
        return value / self.usual

    @property
    def most_share(self) -> float:
        """The most that a step takes."""
        return self.most / self.usual


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the brain must know of a sweep besides its strategy.

    Attributes:
        slots: One for each member, in member order, before any extension.
        bucket: Name of the bucket all stacks belong to.
        defaults: Value of every live hyperparameter, where the strategy names none.
        metric: The objective.
        split: The split that decides.
        tokens_per_step: Tokens a member consumes in a step.
        per_example: What else decides that; None if nothing does.
        devices: That a stack takes while it works.
        flops_per_step: Floating-point operations of a member's step, if the trainable says.
        budget: The limits, before any extension.
        synchronous: False if donors may be under way when they are copied.
        checkpoints: When members are saved.
        session: Who takes the sweep up.
        retries: How often in a row a stack may be lost without training anything in between; None is no limit.
        extend: The task of an extended spec, given its JSON-able data.
    """

    slots: tuple[Slot, ...]
    bucket: str
    defaults: Hparams
    metric: str
    split: str
    tokens_per_step: int
    budget: Budget
    devices: float = 1.0
    flops_per_step: float | None = None
    synchronous: bool = True
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    session: Session = field(default_factory=Session)
    retries: int | None = None
    extend: Callable[[Mapping[str, Any]], Task] | None = None
    per_example: PerExample | None = None

    def share(self, hparams: Hparams) -> float:
        """Tokens and FLOPs of a step with these hyperparameters, in usual steps."""
        return 1.0 if self.per_example is None else self.per_example.share(hparams)

    @property
    def most_share(self) -> float:
        """The same, of the most that any member may take."""
        return 1.0 if self.per_example is None else self.per_example.most_share
