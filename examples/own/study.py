"""A study of Optuna as people have it, with a sampler of pbt's: python study.py [--trials 30]."""

from __future__ import annotations

import argparse

import optuna
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import pbt


def objective(trial: optuna.Trial) -> float:
    """Train a network on scikit-learn's digits; it is pruned where others were better at its epoch."""
    torch.manual_seed(0)
    digits = load_digits()
    pixels, labels = torch.tensor(digits.data, dtype=torch.float32) / 16.0, torch.tensor(digits.target)
    width = trial.suggest_int("width", 8, 128, log=True)
    net = nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Dropout(trial.suggest_float("dropout", 0.0, 0.6)), nn.Linear(width, 10)
    )
    kind = trial.suggest_categorical("optimizer", ["Adam", "SGD", "RMSprop"])
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=trial.suggest_float("lr", 1e-5, 1.0, log=True))
    loss = float("nan")
    for epoch in range(9):
        net.train()
        for batch in torch.randperm(1300).split(50):
            optimizer.zero_grad()
            F.cross_entropy(net(pixels[batch]), labels[batch]).backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            loss = F.cross_entropy(net(pixels[1300:]), labels[1300:]).item()
        trial.report(loss, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return loss


def main() -> None:
    """Search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    args = parser.parse_args()
    study = optuna.create_study(
        sampler=pbt.optuna_sampler(seed=0),
        pruner=optuna.pruners.SuccessiveHalvingPruner(),
    )
    study.optimize(objective, n_trials=args.trials)
    print(f"loss {study.best_value:.4f} with {study.best_params}")


if __name__ == "__main__":
    main()
