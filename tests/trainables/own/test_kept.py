"""What a training loop keeps: weights and places move with a copy, the height of a learning rate does not."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from trainables import TrainableError
from trainables.own.kept import Content, Kept
from trainables.own.trees import put_together, taken_apart

STEPS = 24


def warm_up(optimizer):
    """Linear from almost nothing, then a cosine: two schedulers in one."""
    first = schedules.LinearLR(optimizer, start_factor=0.1, total_iters=6)
    rest = schedules.CosineAnnealingLR(optimizer, T_max=STEPS - 6)
    return schedules.SequentialLR(optimizer, [first, rest], milestones=[6])


SCHEDULES = {
    "cosine": lambda it: schedules.CosineAnnealingLR(it, T_max=STEPS),
    "exponential": lambda it: schedules.ExponentialLR(it, gamma=0.9),
    "steps": lambda it: schedules.StepLR(it, step_size=5, gamma=0.3),
    "milestones": lambda it: schedules.MultiStepLR(it, milestones=[4, 13], gamma=0.3),
    "polynomial": lambda it: schedules.PolynomialLR(it, total_iters=STEPS, power=2.0),
    "warm-up from 0": lambda it: schedules.LambdaLR(it, lambda step: min(1.0, step / 8)),
    "restarts": lambda it: schedules.CosineAnnealingWarmRestarts(it, T_0=4, T_mult=2),
    "one after another": warm_up,
    "chained": lambda it: schedules.ChainedScheduler(
        [schedules.ConstantLR(it, factor=0.5, total_iters=6), schedules.ExponentialLR(it, gamma=0.9)]
    ),
    "plateau": lambda it: schedules.ReduceLROnPlateau(it, patience=1, factor=0.5),
}


class Training:
    """A model, its optimizer and schedule, by hand."""

    def __init__(self, lr, schedule, make=torch.optim.SGD, **settings):
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.optimizer = make(self.model.parameters(), lr=lr, **settings)
        self.scheduler = schedule(self.optimizer)
        self.kept = Kept({"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler})

    def go(self, first, last):
        """Train; the learning rates of the steps."""
        rates = []
        for step in range(first, last):
            rates.append(self.optimizer.param_groups[0]["lr"])
            self.optimizer.zero_grad()
            self.model(torch.full((1, 3), 0.1 * step)).sum().backward()
            self.optimizer.step()
            loss = (abs(math.sin(step)),) if isinstance(self.scheduler, schedules.ReduceLROnPlateau) else ()
            self.scheduler.step(*loss)
        return rates


def stored(content):
    """As it is when it was written and read again."""
    tensors = {name: tensor.clone() for name, tensor in content.tensors.items()}
    return Content(tensors, *json.loads(json.dumps([content.forms, content.places])))


@pytest.mark.filterwarnings("ignore:.*epoch parameter in:UserWarning")
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("at", [0, 3, 6, 14])
def test_a_receiver_goes_on_in_the_donors_place_at_its_own_height(name, at):
    """As if it had always been trained with its own learning rate, whatever the donor's."""
    donor, receiver, itself = (Training(lr, SCHEDULES[name]) for lr in (0.8, 0.05, 0.05))
    donor.go(0, at)
    receiver.kept.load(stored(donor.kept.save()))
    itself.go(0, at)
    assert receiver.go(at, STEPS) == pytest.approx(itself.go(at, STEPS), rel=1e-9, abs=1e-15)


@pytest.mark.filterwarnings("ignore:.*epoch parameter in:UserWarning")
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_same_member_goes_on_exactly(name):
    """To the bit, weights, moments and learning rates."""
    stayed, left, arrived = (Training(0.3, SCHEDULES[name], torch.optim.Adam) for _ in range(3))
    for it in (stayed, left):
        it.go(0, 9)
    arrived.kept.load(stored(left.kept.save()))
    assert arrived.go(9, STEPS) == stayed.go(9, STEPS)
    one, other = (it.kept.save() for it in (stayed, arrived))
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    assert (one.forms, one.places) == (other.forms, other.places)


def test_settings_that_a_schedule_moves_keep_their_own_height():
    """One cycle moves the momentum against the learning rate: for Adam, one of two betas."""

    def one_cycle(optimizer):
        return schedules.OneCycleLR(optimizer, max_lr=optimizer.param_groups[0]["lr"], total_steps=STEPS)

    donor = Training(0.8, one_cycle, torch.optim.Adam, betas=(0.9, 0.999), weight_decay=0.1)
    receiver, itself = (
        Training(0.05, one_cycle, torch.optim.Adam, betas=(0.9, 0.9), weight_decay=0.02) for _ in range(2)
    )
    donor.go(0, 7)
    itself.go(0, 7)
    receiver.kept.load(stored(donor.kept.save()))
    for step in range(7, STEPS):
        mine, wanted = (it.optimizer.param_groups[0] for it in (receiver, itself))
        assert mine["lr"] == pytest.approx(wanted["lr"], rel=1e-9)
        assert mine["betas"] == pytest.approx(wanted["betas"], rel=1e-9)
        assert (mine["weight_decay"], type(mine["betas"])) == (0.02, tuple)
        receiver.go(step, step + 1)
        itself.go(step, step + 1)


def test_a_learning_rate_that_the_loop_sets_itself_keeps_its_height():
    """Without a scheduler, what changed is taken over in proportion; what did not is the receiver's."""
    donor, receiver = (Training(lr, SCHEDULES["plateau"], weight_decay=lr) for lr in (0.8, 0.2))
    donor.optimizer.param_groups[0]["lr"] = 0.4
    receiver.kept.load(stored(donor.kept.save()))
    assert receiver.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    assert receiver.optimizer.param_groups[0]["weight_decay"] == 0.2


def test_parameters_are_told_from_buffers():
    """By their names: shrinking weights needs to know."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    found = Kept({"net": model}).save().tensors
    assert [name for name in found if name.startswith("params.")] == [
        *("params.net.0.weight", "params.net.0.bias", "params.net.1.weight", "params.net.1.bias")
    ]
    assert [name for name in found if name.startswith("buffers.")] == [
        *("buffers.net.1.running_mean", "buffers.net.1.running_var", "buffers.net.1.num_batches_tracked")
    ]


class Average:
    """Something with a state of its own."""

    def __init__(self):
        self.mean, self.count = torch.zeros(2), 0

    def state_dict(self):
        return {"mean": self.mean, "count": self.count}

    def load_state_dict(self, state):
        self.mean, self.count = state["mean"], state["count"]


def test_whatever_knows_its_state_is_kept():
    """And what does not, by functions."""
    one, other, box = Average(), Average(), {"history": [1.5], "best": (0.5, None)}
    one.mean, one.count = torch.tensor([1.0, 2.0]), 3
    content = stored(Kept({"average": one}, save=lambda: box, load=box.update).save())
    again = {}
    Kept({"average": other}, save=lambda: again, load=again.update).load(content)
    assert (other.mean.tolist(), other.count, again) == ([1.0, 2.0], 3, box)


def test_a_load_that_forgets_is_found_out():
    """Before it costs a run: what is saved again must be what was loaded."""
    box = {"weights": torch.ones(2), "count": 3}
    content = stored(Kept({}, save=lambda: box, load=lambda _: None).save())
    fresh = {"weights": torch.zeros(2), "count": 0}
    with pytest.raises(TrainableError, match=r"own\.weights is not what it was.*let load\(\) take back all"):
        Kept({}, save=lambda: fresh, load=lambda _: None).load(content)
    fresh["weights"] = torch.ones(2)
    with pytest.raises(TrainableError, match=r"load\(\) was given.*let load\(\) take back all"):
        Kept({}, save=lambda: fresh, load=lambda _: None).load(content)


def test_what_does_not_fit_is_refused_by_name():
    """Another model's weights."""
    content = stored(Kept({"model": nn.Linear(2, 2)}).save())
    with pytest.raises(TrainableError, match=r"(?s)model does not take back what it gave.*size mismatch"):
        Kept({"model": nn.Linear(3, 2)}).load(content)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "nothing to keep; give what changes in training"),
        ({"model": 3}, "given model, a int without state_dict and load_state_dict; give save and load"),
        ({"save": dict}, "save without load; give both"),
        ({"load": dict}, "load without save; give both"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(given, says):
    """With the mend."""
    functions = {name: given.pop(name, None) for name in ("save", "load")}
    with pytest.raises(TrainableError, match=says):
        Kept(given, **functions)


@pytest.mark.parametrize("tree", [{"a": object()}, [{1, 2}], {(1, 2): 3}])
def test_what_is_neither_tensor_nor_json_is_refused(tree):
    """By its place."""
    with pytest.raises(TrainableError, match=r"^own.* which is not kept; give tensors, numbers"):
        taken_apart(tree, "own")


def test_trees_come_back_as_they_were():
    """Nested, with keys that are numbers, tuples, arrays and odd numbers."""
    tree = {
        "a": [1, 2.5, None, True, "x", float("inf")],
        3: (torch.arange(3), {"deep": np.arange(2.0)}),
        "numpy": np.float64(0.5),
    }
    form, tensors = taken_apart(tree, "own")
    back = put_together(json.loads(json.dumps(form)), tensors)
    assert back["a"] == tree["a"]
    assert back[3][0].tolist() == [0, 1, 2]
    assert isinstance(back[3], tuple)
    assert back[3][1]["deep"].tolist() == [0.0, 1.0]
    assert (back["numpy"], list(back)) == (0.5, ["a", 3, "numpy"])
