"""A Tuner of Ray Tune as people have it, with a search of pbt's: python search.py [--trials 24]."""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from sklearn.datasets import load_digits
from torch import nn

import pbt


def train(config: dict[str, Any]) -> None:
    """One trial: it trains by its `config`, and reports every epoch."""
    torch.manual_seed(0)
    digits = load_digits()
    pixels, labels = torch.tensor(digits.data, dtype=torch.float32) / 16.0, torch.tensor(digits.target)
    net = nn.Sequential(nn.Linear(64, config["width"]), nn.ReLU(), nn.Linear(config["width"], 10))
    kind, lr = config["optimizer"]["kind"], config["optimizer"]["lr"]
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=lr)
    for _ in range(9):
        for batch in torch.randperm(1300).split(50):
            optimizer.zero_grad()
            F.cross_entropy(net(pixels[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            tune.report({"loss": F.cross_entropy(net(pixels[1300:]), labels[1300:]).item()})


def main() -> None:
    """Tune."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24)
    args = parser.parse_args()
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={
            "width": tune.lograndint(8, 129),
            "optimizer": {"kind": tune.choice(["Adam", "SGD", "RMSprop"]), "lr": tune.loguniform(1e-5, 1.0)},
        },
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=args.trials,
            search_alg=pbt.tune_searcher(),
            scheduler=ASHAScheduler(max_t=9),
            reuse_actors=True,  # or each trial starts a process of its own
        ),
    )
    best = tuner.fit().get_best_result()
    print(f"loss {best.metrics['loss']:.4f} with {best.config}")


if __name__ == "__main__":
    main()
