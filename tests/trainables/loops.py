"""Training loops as people write them, for the tests of `trainables.adapt`."""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn import functional

from trainables import adapt


def data():
    """A little regression, the same for everybody."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 4, generator=generator)
    return inputs, (inputs @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])).tanh()


def train():
    """A network with running statistics and dropout, momentum, decay and a schedule; a report after every step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=200)
    args = adapt.hparams(parser.parse_args())
    inputs, targets = data()
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(min(args.dropout, 0.95)), nn.Linear(8, 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.steps)
    start = adapt.resume(model=model, optimizer=optimizer, scheduler=scheduler)
    for step in range(start, args.steps):
        model.train()
        batch = torch.randint(len(inputs), (16,))
        loss = functional.mse_loss(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            held_out = functional.mse_loss(model(inputs), targets)
        adapt.report({"loss": held_out, "train_loss": loss}, step=step + 1)


def sees_mlflow():
    """It was imported before anybody trains: not at the same time, by another thread."""
    import sys

    found = float("mlflow" in sys.modules)
    _loop(each=lambda step: {"loss": found})


def _loop(before=lambda: None, each=lambda step: {"loss": 1.0}, steps=1000, first=None):
    """The shortest loop there can be."""
    weight = {"w": torch.zeros(1)}
    before()
    start = adapt.resume(save=lambda: weight, load=weight.update)
    for step in range(start if first is None else first, steps):
        weight["w"] = weight["w"] + 1.0
        adapt.report(each(step), step=step + 1)


def plain():
    _loop(before=lambda: adapt.hparams()["lr"])


def never_asks():
    _loop()


def asks_for_all():
    _loop(before=lambda: vars(adapt.hparams(argparse.Namespace(lr=1.0, decay=1.0))))


def prints():
    _loop(before=lambda: (repr(adapt.hparams(argparse.Namespace(lr=1.0, decay=1.0))), repr(adapt.hparams())))


def asks_while_it_trains():
    _loop(each=lambda step: {"loss": 1.0, "lr": adapt.hparams({"lr": 1.0, "decay": 0.0})["lr"]})


def draws():
    """Reports what it draws from everybody's generators, before and in training."""
    import random

    import numpy as np

    def drawn():
        return random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002

    first = drawn()
    _loop(each=lambda step: {"loss": 1.0, "first": first, "next": drawn()})


def arguments():
    import sys

    _loop(each=lambda step: {"loss": 1.0, "count": len(sys.argv), "second": float(sys.argv[2])})


def too_short():
    _loop(steps=3)


def leaves():
    import sys

    _loop(before=lambda: sys.exit(1))


def without_resume():
    adapt.report({"loss": 1.0}, step=1)


def resumes_twice():
    _loop(before=lambda: adapt.resume(save=dict, load=dict))


def begins_again():
    _loop(first=0)


def breaks_off():
    def each(step):
        if step == 2:
            raise ZeroDivisionError("a mistake of the user's")
        return {"loss": 1.0}

    _loop(each=each)


def reports_words():
    _loop(each=lambda step: {"loss": "low"})


def reports_something_else():
    _loop(each=lambda step: {"accuracy": 1.0})


def asks_for_others():
    _loop(before=lambda: adapt.hparams({"learning_rate": 1.0}))


def hands_over_a_list():
    _loop(before=lambda: adapt.hparams([1.0]))


#: What loops left behind when they were told to end.
CLEANED = []


def cleans_up():
    try:
        _loop()
    except Exception:
        CLEANED.append("caught")
    finally:
        CLEANED.append("cleaned")


NOT_A_FUNCTION = 3
