"""Somebody's own training function, as a member of a population."""

from __future__ import annotations

import argparse
import copy
import gc
import pickle
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.contracts.stack_contract import Change, StackContract
from tests.trainables import loops
from trainables import HparamSpec, MetricSpec, Place, TrainableError, adapt, load
from trainables.own.loop import Loop


class TestContract(StackContract):
    """A function keeps the contract of every trainable."""

    SAMPLES = (
        {"lr": 0.05, "dropout": 0.0},
        {"lr": 0.02, "momentum": 0.5},
        {"lr": 0.1, "weight_decay": 0.01},
    )
    CHANGES: ClassVar = {
        "lr": Change(to=0.3),
        "momentum": Change(to=0.1),
        "weight_decay": Change(to=0.5),
        "dropout": Change(to=0.7),
    }

    RESIDENT = 0
    TRAINING = "train_loss"

    @pytest.fixture
    def trainable(self):
        return adapt.from_function(
            "tests.trainables.loops:train",
            hparams={
                "lr": {"default": 0.05, "low": 0.0},
                "momentum": {"default": 0.9, "low": 0.0, "high": 1.0},
                "weight_decay": 0.0,
                "dropout": 0.2,
            },
            metrics={"loss": "min"},
            resident=self.RESIDENT,
        )

    def test_splits_differ(self, stack):
        pytest.skip("a function reports what it holds out itself, on one split")

    def test_an_unknown_split_is_refused(self, stack):
        with pytest.raises(TrainableError, match=r"holdout.*validation"):
            stack.evaluate("holdout", [0])

    @pytest.mark.parametrize("slot", [-1, 3])
    def test_slots_that_are_not_there_are_refused(self, stack, slot):
        asks = (
            lambda: stack.admit(slot, {}, 0),
            lambda: stack.evict(slot),
            lambda: stack.evaluate("validation", [slot]),
            lambda: stack.set_hparams([slot], lr=[0.1]),
        )
        for ask in asks:
            with pytest.raises(TrainableError, match=f"slot {slot}"):
                ask()


@pytest.mark.full
class TestContractOfOneInMemory(TestContract):
    """Members wait for their turns as states, and nobody can tell."""

    RESIDENT = 1


def test_no_more_loops_are_in_memory_than_may_be():
    """Those that were used last; what was asked for stays known, and where they stood."""
    stack = stack_of("asks_while_it_trains", 3, resident=2)
    stack.run([2, 2, 2])
    assert len(training_loops()) == 2
    assert [stack.asked(slot) for slot in range(3)] == [{"lr"}] * 3
    stack.run([3, 3, 3])
    assert [stack.progress(slot) for slot in range(3)] == [(3, 3)] * 3
    assert len(training_loops()) == 2


def made(name, hparams=None, metrics=None, **options):
    """A loop of `loops`, as a trainable."""
    return adapt.from_function(
        f"tests.trainables.loops:{name}",
        hparams={"lr": 0.5, "decay": 0.0} if hparams is None else hparams,
        metrics={"loss": "min"} if metrics is None else metrics,
        **options,
    )


def stack_of(name, members=1, **options):
    """Members of a loop, admitted."""
    stack = made(name, **options).build("function", members, Place())
    for slot in range(members):
        stack.admit(slot, {}, seed=slot)
    return stack


# --- hyperparameters


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("plain", {"lr"}),
        ("never_asks", set()),
        ("asks_for_all", {"lr", "decay"}),
        ("prints", set()),
        ("asks_while_it_trains", {"lr"}),
    ],
)
def test_who_was_asked_for_is_noted(name, asked):
    """Read from a mapping or a namespace, one or all; printing them is not asking."""
    stack = stack_of(name)
    stack.run([2])
    assert asked == stack.asked(0)


def test_who_was_asked_for_is_forgotten_with_a_change(monkeypatch):
    """What was in effect says nothing of what is to be."""
    stack = stack_of("asks_while_it_trains")
    stack.run([1])
    stack.set_hparams([0], lr=[0.25])
    assert stack.asked(0) == set()
    assert stack.run([2])["lr"][0] == 0.25
    assert stack.asked(0) == {"lr"}
    stack.set_hparams([0], lr=[0.25])  # no change
    assert stack.asked(0) == {"lr"}


def test_words_flags_and_weights_are_hyperparameters_too():
    """Of the kind of their defaults, and nothing else."""
    stack = stack_of("plain", hparams={"lr": 0.5, "rule": "sgd", "nesterov": True, "mix": {"a": 0.5, "b": 0.5}, "n": 3})
    stack.set_hparams([0], rule=["adam"], nesterov=[False], mix=[{"a": 1.0, "b": 0.0}], n=[4])
    assert stack.hparams(0) == {"lr": 0.5, "rule": "adam", "nesterov": False, "mix": {"a": 1.0, "b": 0.0}, "n": 4}
    for name, bad in (("rule", 3), ("nesterov", "no"), ("mix", 0.5), ("n", 4.5), ("n", True)):
        with pytest.raises(TrainableError, match=f"'{name}'"):
            stack.set_hparams([0], **{name: [bad]})


def test_outside_a_sweep_the_doors_do_nothing():
    """The script runs by itself, with its own arguments."""
    arguments = argparse.Namespace(lr=0.1)
    assert adapt.hparams(arguments) is arguments
    assert adapt.hparams({"lr": 0.1}) == {"lr": 0.1}
    assert adapt.hparams() == {}
    assert adapt.resume(model=None) == 0
    adapt.report({"loss": 1.0}, step=1)


def test_a_copy_of_the_arguments_is_a_plain_one():
    """Scripts copy them, and send them to other processes."""
    loop = Loop(lambda: None, {"lr": 0.5})
    arguments = adapt._Arguments(loop, {"lr": 0.5, "epochs": 3})
    for again in (copy.deepcopy(arguments), copy.copy(arguments), pickle.loads(pickle.dumps(arguments))):  # noqa: S301
        assert (type(again), vars(again)) == (argparse.Namespace, {"lr": 0.5, "epochs": 3})


# --- what members share


def test_random_numbers_follow_from_the_seed_and_the_steps():
    """Before training from the seed, in training from the reports too: whoever trained in between."""
    alone, together = stack_of("draws", 1), stack_of("draws", 2)
    metrics = [alone.run([1]), alone.run([2])]
    both = [together.run([1, 5]), together.run([2, 9])]
    for one, other in zip(metrics, both, strict=True):
        assert (one["first"][0], one["next"][0]) == (other["first"][0], other["next"][0])
    assert metrics[0]["next"] != metrics[1]["next"]
    assert both[0]["first"][0] != both[0]["first"][1]


def test_others_random_numbers_and_arguments_are_left_alone(monkeypatch):
    """Python's, NumPy's, torch's and `sys.argv`: those of the process that trains."""
    monkeypatch.setattr(sys, "argv", ["pbt", "run"])

    def drawn():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
        return lambda: (random.random(), np.random.rand(), float(torch.rand(())))  # noqa: NPY002

    wanted = drawn()()
    draw = drawn()
    stack_of("draws").run([3])
    assert draw() == wanted
    assert sys.argv == ["pbt", "run"]


def test_arguments_are_those_of_the_sweep_file():
    """Numbers are written as on a command line."""
    metrics = stack_of("arguments", arguments=["--epochs", 30]).run([1])
    assert (metrics["count"][0], metrics["second"][0]) == (3, 30)


def test_loops_that_nobody_needs_end_and_clean_up():
    """Also where they catch every exception; with their stack, too."""
    loops.CLEANED.clear()
    stack = stack_of("cleans_up", 2)
    stack.run([1, 1])
    assert len(training_loops()) == 2
    stack.evict(0)
    assert (len(training_loops()), loops.CLEANED) == (1, ["cleaned"])
    del stack
    gc.collect()
    assert (training_loops(), loops.CLEANED) == ([], ["cleaned", "cleaned"])


def training_loops():
    return [thread for thread in threading.enumerate() if thread.name == "training-loop"]


def test_what_is_held_out_is_not_told_as_training():
    """What the sweep was told to expect is of the validation split; all else is of training."""
    stack = stack_of("asks_while_it_trains")
    assert set(stack.run([2])) == {"lr"}
    assert set(stack.evaluate("validation", [0])) == {"loss"}


@pytest.mark.full
def test_mlflow_is_imported_before_anybody_trains(tmp_path):
    """scikit-learn looks for what MLflow imports, and finds half a module while another thread is at it."""
    code = f"""
import pbt
from trainables import adapt
result = pbt.Sweep(
    trainable=adapt.from_function(
        "tests.trainables.loops:sees_mlflow", hparams={{"lr": 0.5}}, metrics={{"loss": "max"}}
    ),
    space={{"lr": {{"type": "float", "low": 0.1, "high": 1.0}}}},
    objective="loss",
    budget={{"members": 2, "generations": 1, "steps": 1}},
    hosts=pbt.Hosts(kind="local", stacks=2),
    storage={str(tmp_path)!r},
).run(progress=False)
assert result.best.score == 1.0
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=300)


# --- loops that go wrong


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("too_short", r"too_short\(\) ended after step 3, but the sweep trains on; let it train for longer"),
        ("leaves", r"leaves\(\) ended without calling resume\(\); call it between making the model and training"),
        ("without_resume", r"without_resume\(\) reported step 1 without calling resume\(\)"),
        ("resumes_twice", r"resume\(\) was called twice"),
        ("reports_words", r"metric 'loss' is 'low'; report a number"),
        ("reports_something_else", r"reported accuracy, but no 'loss'; report it each time, or leave it out"),
        ("asks_for_others", r"hparam 'lr' is none of the script's own; "),
        ("hands_over_a_list", r"hparams\(\) was given a list; give a mapping, or what parse_args\(\) returns"),
    ],
)
def test_a_loop_that_cannot_train_is_told_why(name, says):
    """With the mend."""
    with pytest.raises(TrainableError, match=says):
        stack_of(name).run([5])


def test_a_loop_that_does_not_go_on_from_its_step_is_found_out():
    """It would train the first epochs again, and say that it goes on."""
    stack = stack_of("begins_again", 2)
    stack.run([3, 0])
    stack.copy([0], [1])
    with pytest.raises(TrainableError, match=r"reports step 1 after step 3; count on from what resume\(\) returns"):
        stack.run([3, 1])


def test_an_exception_of_the_loops_is_the_users():
    """It says where."""
    stack = stack_of("breaks_off")
    stack.run([2])
    with pytest.raises(ZeroDivisionError, match="a mistake of the user's") as caught:
        stack.run([3])
    assert caught.traceback[-1].path.name == "loops.py"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"train": "tests.trainables.loops:plian"}, "did you mean 'plain'"),
        ({"train": "tests.trainables.loops:NOT_A_FUNCTION"}, "a int; give package.module:function"),
        ({"train": "no.such.module:main"}, "cannot be imported"),
        ({"metrics": {}}, "metrics is empty"),
        ({"metrics": {"loss": "low"}}, r"metrics\['loss'\] is 'low'; give min or max"),
        ({"hparams": {"lr": None}}, r"hparams\['lr'\] is None; give its default"),
        ({"hparams": {"lr": {"default": 1.0, "hihg": 3}}}, "did you mean 'high'"),
        ({"hparams": {"lr": {"default": -1.0, "low": 0.0}}}, r"'lr' is -1.0; give a value in \[0.0, inf\]"),
        ({"hparams": {"mix": {"a": 0.5, "b": 0.4}}}, "sum to 0.9, not 1"),
        ({"arguments": "--epochs 30"}, r"arguments is '--epochs 30'; give a list"),
        ({"tokens": 0}, "tokens is 0; give a whole number"),
        ({"resident": -1}, "resident is -1; give a whole number"),
    ],
)
def test_options_that_make_no_trainable_are_refused(options, says):
    """Before anything is started."""
    usual = {"train": "tests.trainables.loops:plain", "hparams": {"lr": 0.5}, "metrics": {"loss": "min"}}
    with pytest.raises(TrainableError, match=says):
        load("function", {**usual, **options})


def test_a_function_is_given_by_itself_or_by_its_name():
    """Hosts import it: it needs one. That of a script being run is the script's."""
    given = adapt.from_function(
        loops.plain,
        hparams={"lr": HparamSpec(kind="live", default=0.5, low=0.0)},
        metrics={"loss": MetricSpec(mode="min")},
    )
    assert given == made("plain", hparams={"lr": {"default": 0.5, "low": 0.0}})
    with pytest.raises(TrainableError, match="not found by its name; define the function at the top of a module"):
        adapt.from_function(lambda: None, hparams={}, metrics={"loss": "min"})


def test_gangs_are_refused():
    """A function trains in one process."""
    with pytest.raises(TrainableError, match=r"hosts\.ranks is 2.*give 1"):
        made("plain").build("function", 1, Place(world_size=2))
