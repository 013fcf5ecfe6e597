"""Somebody's own torch.nn module, whose members train stacked: `trainables.adapt.from_module` is the door to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from trainables.base import Capabilities, Hparams, MetricSpec, Place, Stack
from trainables.core import options
from trainables.core.model import Program
from trainables.core.optim import CLIP_NORM, ready
from trainables.core.schedules import Schedule
from trainables.core.stack import CoreStack
from trainables.errors import TrainableError, nearest
from trainables.own.names import function
from trainables.own.network import Network, Source, network
from trainables.own.tensors import Tables, TensorFeed, tables

_MODES = ("min", "max")
_COUNTS = ("batch", "eval_examples", "schedule_knots", "accumulate")
_NOT_IN_BUCKETS = {"arguments", "data", "eval_examples", "metrics"}


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module, its loss and its data, trained from scratch by the training core.

    Functions are given by name, `package.module:function`, so that a sweep can be recorded and taken up again.

    Attributes:
        model: Makes the module, with fresh weights: a function, or the module's class. Parameters that ask for no
            gradient, or that the loss does not depend on, are left as they are.
        loss: Of what the module gives and of the targets, `loss(output, target)`: the mean over the examples. Its
            keyword-only arguments whose defaults are floats are hyperparameters.
        data: Gives the examples: `{"train": (inputs, targets), "validation": ..., "test": ...}`, each a tensor or an
            array with the examples first, or a tuple of them; or a map-style data set of pairs, which is read once. All
            of it is put on the device. The module is called with the inputs, the loss with its output and the targets.
        metrics: What else is measured, by name: `{"function": ..., "mode": "min" or "max"}`, a function like the loss.
        arguments: What `model` is called with, by name.
        batch: Examples per member and step.
        eval_examples: Examples of a split that an evaluation reads, at most.
        schedule: Learning rate over the age of the weights; see `trainables.core.schedules`. It decides which
            hyperparameters there are beside the optimizer's and the module's, all live.
        schedule_unit: `steps`, or `tokens` for durations in examples.
        schedule_knots: Knots of the piecewise schedules.
        optimizer: Name of the optimizer, one of `trainables.core.optim.REGISTERED`. Weight decay acts on what has two
            dimensions or more.
        accumulate: Micro-batches that the examples of a step are split into, to save memory; it divides `batch`.
        noise_decay: Decay of the noise scale's moving averages by one step.
    """

    model: str
    loss: str
    data: str
    metrics: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 64
    eval_examples: int = 10_000
    schedule: str = "cosine"
    schedule_unit: str = "steps"
    schedule_knots: int = 8
    optimizer: str = "adamw"
    accumulate: int = 1
    noise_decay: float = 0.99

    def __post_init__(self) -> None:
        """Refuse options that make no trainable, whatever the module."""
        for name in ("model", "loss", "data"):
            function(f"module {name}", getattr(self, name))
        for name, metric in self.metrics.items():
            _check_metric(name, metric)
        _text(self.arguments)
        options.check_counts("module", self, _COUNTS)
        options.check_divides("module", self, "accumulate", "batch")
        options.check_share("module", self, "noise_decay")
        self._schedule()
        ready(self.optimizer)

    def describe(self) -> Capabilities:
        """`loss` and the metrics; every hyperparameter live."""
        program, own = self._program(torch.device("cpu")), self._network()
        modes: dict[str, Any] = {name: metric["mode"] for name, metric in self.metrics.items()}
        return Capabilities(
            metrics={
                "loss": MetricSpec(mode="min", doc=self.loss),
                **{name: MetricSpec(mode=mode, doc=self.metrics[name]["function"]) for name, mode in modes.items()},
            },
            hparams=program.hparams,
            splits=tuple(self._tables().columns),
            tokens_per_step=self.batch,
            flops_per_step=None if own.flops is None else own.flops * self.batch,
            rng="splitmix64 v1",
            data={"source": self.data, **self._tables().provenance()},
        )

    def bucket(self, hparams: Hparams) -> str:
        """All members of one `Module` share its bucket: every hyperparameter is live."""
        unused = set() if self.schedule.startswith("piecewise") else {"schedule_knots"}
        unused |= {"noise_decay"} if self.accumulate == 1 else set()
        later = set(self.__dataclass_fields__) - _NOT_IN_BUCKETS - unused - {"model", "loss", "batch"}
        made = hashlib.sha256(_text(self.arguments).encode()).hexdigest()[:8]
        model = f"{self.model}.{made}" if self.arguments else self.model
        return options.bucket("module", self, {"model", "loss", "batch"}, later, model=model).replace(":", ".")

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack.

        Raises:
            TrainableError: The bucket is another's, several processes are to share a member, or a batch is to be split
                whose examples see each other.
        """
        if bucket != self.bucket({}):
            raise TrainableError(f"bucket {bucket!r} is not {self.bucket({})!r}, the only one")
        if place.world_size > 1:
            mend = "give 1, or train with `name: gang`"
            raise TrainableError(
                f"hosts.ranks is {place.world_size}, but a stacked module trains in one process; {mend}"
            )
        parts = self.accumulate * (1 if place.plan is None else place.plan.accumulate)
        if parts > 1 and "bn_momentum" in self._network().specs:
            mend = "give a smaller batch, or another norm"
            raise TrainableError(
                f"module {self.model!r} has batch norm, which splitting its batch would change; {mend}"
            )
        return CoreStack(self._program(torch.device(place.device)), capacity, place)

    def _program(self, device: torch.device) -> Program:
        own, optimizer, schedule = self._network(), ready(self.optimizer), self._schedule()
        taken = {**optimizer.hparams, **schedule.hparams, "clip_norm": CLIP_NORM}
        for name in own.specs:
            if name in taken:
                raise TrainableError(f"module loss is {self.loss!r}, whose {name!r} is the optimizer's, too; rename it")
        return Program(
            model=own,
            feed=TensorFeed.of(self._tables(), device, self.batch, self.eval_examples),
            optimizer=optimizer,
            schedule=schedule,
            extra_hparams={**own.specs, "clip_norm": replace(CLIP_NORM, default=0.0)},
            accumulate=self.accumulate,
            noise_decay=self.noise_decay,
            fresh=own.fresh,
            eager=own.eager,
        )

    def _network(self) -> Network:
        functions: dict[str, Callable[..., Any]] = {
            name: function(f"module metrics[{name!r}]", metric["function"]) for name, metric in self.metrics.items()
        }
        metrics = {name: metric["function"] for name, metric in self.metrics.items()}
        source = Source(
            make=function("module model", self.model),
            arguments=_text(self.arguments),
            loss=function("module loss", self.loss),
            metrics=tuple(functions.items()),
            names=tuple({"model": self.model, "loss": self.loss, **metrics}.items()),
        )
        return network(source, self._tables(), self.batch)

    def _tables(self) -> Tables:
        found = tables(f"module data is {self.data!r}", function("module data", self.data))
        if self.batch > (size := len(found.columns["train"][0])):
            raise TrainableError(f"module batch is {self.batch}; give at most {size}, as there are to train on")
        return found

    def _schedule(self) -> Schedule:
        return options.schedule(self, self.batch)


def _text(arguments: Mapping[str, Any]) -> str:
    """Arguments as they are recorded.

    Raises:
        TrainableError: They cannot be.
    """
    try:
        return json.dumps(dict(arguments), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TrainableError(f"module arguments is {arguments!r}; give numbers, words, lists by name") from error


def _check_metric(name: str, metric: Any) -> None:
    what = f"module metrics[{name!r}]"
    if name == "loss":
        raise TrainableError(f"{what} is measured already; give the metric another name")
    mend = "give {'function': 'package.module:function', 'mode': 'max'}"
    if not isinstance(metric, Mapping) or set(metric) != {"function", "mode"}:
        raise TrainableError(f"{what} is {metric!r}; {mend}")
    if metric["mode"] not in _MODES:
        raise TrainableError(f"{what} has mode {metric['mode']!r}; {nearest(str(metric['mode']), _MODES)}")
    function(what, metric["function"])
