"""Ray Tune's own population-based training and population-based bandits, as its users use them.

A trial for each member, and a class with `save_checkpoint`, `load_checkpoint` and `reset_config`, so that actors can be
reused. It trains the same trainables through stacks of one. Ray's schedulers do what they do.
"""

from __future__ import annotations

import logging
import math
import os
import random
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.pb2 import PB2
from ray.tune.search.basic_variant import BasicVariantGenerator

from benchmarks.population_quality.outcome import Outcome, Stretch
from benchmarks.population_quality.tasks import Task, task
from pbt.runtime.cluster import ENVIRONMENT
from pbt.runtime.session import processes_of_their_own, session_folder
from searchspaces import Float, Int, Space
from searchspaces.domains import Domain
from trainables import Place, Shard, Stack, State

_STATE = "state.pt"


class Member(tune.Trainable):
    """A member as Ray Tune has it: an iteration is a generation."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called in a new actor."""
        torch.set_num_threads(1)
        self._task = task(config["task"], config["quick"])
        self._stack: Stack = self._task.trainable.build(self._task.trainable.bucket({}), 1, PLACE)
        self._begin(config)

    def _begin(self, config: Mapping[str, Any]) -> None:
        """Fresh weights."""
        # Of the trial, not of its config, which is replaced by a donor's.
        self._seed = self._task.seeds(config["seed"])[int(self.trial_name)]
        self._consumed = 0
        self._stack.admit(0, self._hparams(config), self._seed)

    def _hparams(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {name: config[name] for name in self._task.space}

    def step(self) -> dict[str, Any]:
        """A generation, and the score at its end."""
        self._consumed += self._task.budget.steps
        self._stack.run([self._consumed])
        metric = self._task.metric
        return {metric: float(self._stack.evaluate("validation", [0])[metric][0])}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Weights, optimizer and age."""
        state = self._stack.state(0)
        tensors = {shard.name: shard.tensor for shard in state.shards}
        counted = {"age": state.age, "consumed": state.consumed, "seed": state.seed}
        torch.save({"tensors": tensors} | counted, Path(checkpoint_dir) / _STATE)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """One's own, or a donor's: hyperparameters are the config's, seed and place in the data are one's own."""
        state = read_state(Path(checkpoint_dir))
        self._consumed = state.consumed  # all have consumed as much when they are copied
        self._stack.admit(0, self._hparams(self.config), self._seed, state, self._consumed)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The actor takes another trial, or the same with other hyperparameters; a checkpoint is loaded afterwards."""
        self.config = new_config
        self._begin(new_config)
        return True


#: As our own: nothing compiled.
PLACE = Place(compile="never")


def read_state(folder: Path) -> State:
    """The state in a checkpoint."""
    found = torch.load(folder / _STATE, weights_only=True)
    shards = tuple(Shard.whole(name, tensor) for name, tensor in found["tensors"].items())
    return State(shards, found["age"], found["consumed"], found["seed"])


def pbt(of: Task) -> TrialScheduler:
    """Population-based training with Ray's defaults, synchronous, and bounds kept as its documentation advises."""
    return PopulationBasedTraining(
        **_common(of),
        hyperparam_mutations={name: _distribution(domain) for name, domain in of.space.items()},
        custom_explore_fn=lambda config: _within(of.space, config),
    )


def pb2(of: Task) -> TrialScheduler:
    """Population-based bandits with Ray's defaults, synchronous. It is given bounds, and knows of no other scale."""
    bounds = {name: [float(domain.low), float(domain.high)] for name, domain in of.space.items()}  # type: ignore[union-attr]
    return PB2(**_common(of), hyperparam_bounds=bounds, custom_explore_fn=lambda config: _within(of.space, config))


def _common(of: Task) -> dict[str, Any]:
    return {
        "time_attr": "training_iteration",
        "metric": of.metric,
        "mode": of.mode,
        "perturbation_interval": 1,
        "log_config": False,
        "synch": True,
    }


def _distribution(domain: Domain) -> Any:
    """What Ray draws from where it resamples: the same as at the beginning."""
    if isinstance(domain, Int):
        return tune.randint(domain.low, domain.high + 1)
    assert isinstance(domain, Float)
    return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)


def _within(space: Space, config: dict[str, Any]) -> dict[str, Any]:
    for name, domain in space.items():
        config[name] = type(config[name])(min(max(config[name], domain.low), domain.high))  # type: ignore[union-attr]
    return config


SCHEDULERS = {"ray_pbt": pbt, "ray_pb2": pb2}


@contextmanager
def cluster(lanes: int) -> Iterator[str]:
    """A Ray on this machine that several processes share, each with a lane: room for `_AT_ONCE` trials of its own.

    Yields:
        Its address.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with session_folder() as folder:
        with processes_of_their_own():
            ray.init(
                address="local",
                resources={_lane(number): float(_AT_ONCE) for number in range(lanes)},
                include_dashboard=False,
                _temp_dir=str(folder),
                **_QUIET,
            )
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Take part in it for one run: its actors go when the run has ended."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    ray.init(address=address, **_QUIET)
    try:
        yield
    finally:
        ray.shutdown()


_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
#: Trials of a run that train at once: Tune keeps one idle actor while all are compared, and would start others anew.
_AT_ONCE = 1


def _lane(number: int) -> str:
    return f"lane_{number}"


def train(of: Task, method: str, seed: int, quick: bool, folder: Path, lane: int) -> Outcome:
    """Train a population under Ray, which is up.

    Args:
        of: The task.
        method: Of `SCHEDULERS`.
        seed: Of the population and of Ray's draws.
        quick: Whether the task is a quick one.
        folder: For Ray's files.
        lane: Whose resources its trials take.
    """
    random.seed(seed)  # Ray draws from these
    np.random.seed(seed)  # noqa: NPY002
    warnings.filterwarnings("ignore", module="sklearn")  # its models of gains reach the ends of their bounds
    listener = _Listener(of)
    tuner = tune.Tuner(
        tune.with_resources(Member, {"CPU": 0, _lane(lane): 1}),
        param_space=_begin(of, seed, quick),
        tune_config=tune.TuneConfig(
            scheduler=SCHEDULERS[method](of),
            search_alg=_Open(listener),
            trial_name_creator=_name,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            callbacks=[listener],
            storage_path=str(folder),
            stop={"training_iteration": of.budget.generations},
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    )
    return _judged(of, tuner.fit(), listener.trained)


class _Listener(tune.Callback):
    """Takes down what every trial trained with."""

    def __init__(self, of: Task) -> None:
        self.trained: list[Stretch] = []
        self.ended = 0
        self._of = of

    @property
    def has_heard_all(self) -> bool:
        """Whether every trial has ended."""
        return self.ended == self._of.budget.members

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """One trial less."""
        self.ended += 1

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The same."""
        self.ended += 1

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """One more generation."""
        steps, end = self._of.budget.steps, result["training_iteration"] * self._of.budget.steps
        hparams = {name: result["config"][name] for name in self._of.space}
        self.trained.append(Stretch(int(str(trial)), end - steps, end, hparams))


class _Open(BasicVariantGenerator):
    """All trials at once, as without it, but it might have another: else Tune lets idle actors go in every round."""

    def __init__(self, listener: _Listener) -> None:
        super().__init__()
        self._listener = listener

    def is_finished(self) -> bool:
        """Once all have ended."""
        return bool(super().is_finished()) and self._listener.has_heard_all


def _begin(of: Task, seed: int, quick: bool) -> dict[str, Any]:
    """A trial for each member, beginning as ours do."""
    population = of.population(seed)
    members = tune.grid_search(list(range(len(population))))
    first = {name: tune.sample_from(partial(_first, population, name)) for name in of.space}
    return {"task": of.name, "quick": quick, "seed": seed, "member": members, **first}


def _first(population: Sequence[Mapping[str, Any]], name: str, config: Mapping[str, Any]) -> Any:
    return population[config["member"]][name]


def _name(trial: Any) -> str:
    """Called when a trial is made; its config is replaced later, its name is not."""
    return str(trial.config["member"])


def _judged(of: Task, results: tune.ResultGrid, trained: Sequence[Stretch]) -> Outcome:
    """The winner's weights, evaluated as ours are."""
    if results.errors:
        raise results.errors[0]
    best = results.get_best_result(of.metric, of.mode)
    stack = of.trainable.build(of.trainable.bucket({}), 1, PLACE)
    with best.checkpoint.as_directory() as folder:
        state = read_state(Path(folder))
    hparams = {name: best.config[name] for name in of.space}
    stack.admit(0, hparams, state.seed, state)
    validation, test = (float(stack.evaluate(split, [0])[of.metric][0]) for split in ("validation", "test"))
    reported = best.metrics[of.metric]
    assert math.isclose(validation, reported, rel_tol=1e-4), f"{validation} is not {reported}, which was reported"
    steps = sum(it.end - it.begin for it in trained)
    score = of.judge(test, trained)
    return Outcome(score=score, validation=validation, test=test, member_steps=steps, hparams=hparams)
