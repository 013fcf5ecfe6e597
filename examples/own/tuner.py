"""A Tuner of Ray Tune as people have it, with a scheduler of pbt's: python tuner.py [--members 8] [--generations 5]."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ray import tune
from ray.tune import Checkpoint
from sklearn.datasets import load_digits
from torch import nn

import pbt
from searchspaces import Float


def train(config: dict[str, Any]) -> None:
    """One trial: it goes on from its checkpoint, trains by its `config`, and reports every epoch, with a checkpoint."""
    digits = load_digits()
    pixels, labels = torch.tensor(digits.data, dtype=torch.float32) / 16.0, torch.tensor(digits.target)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(net.parameters())
    epoch = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            kept = torch.load(Path(folder) / "state.pt", weights_only=True)
        net.load_state_dict(kept["net"])
        optimizer.load_state_dict(kept["optimizer"])
        epoch = kept["epoch"]
    for group in optimizer.param_groups:  # after loading, which puts the donor's back
        group["lr"] = config["lr"]
    while True:
        net.train()
        for batch in torch.randperm(1500).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(pixels[batch]), labels[batch]).backward()
            optimizer.step()
        epoch += 1
        net.eval()
        with torch.no_grad():
            loss = F.cross_entropy(net(pixels[1500:]), labels[1500:]).item()
        with tempfile.TemporaryDirectory() as folder:
            state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, Path(folder) / "state.pt")
            tune.report({"loss": loss}, checkpoint=Checkpoint.from_directory(folder))


def main() -> None:
    """Tune."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--generations", type=int, default=5)
    args = parser.parse_args()
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=args.members,
            scheduler=pbt.tune_scheduler(
                space={"lr": Float(1e-4, 1e-1, log=True), "dropout": Float(0.0, 0.5)},
                strategy="pb2",
                members=args.members,
                generations=args.generations,
                steps=2,  # reports of a trial in a generation
            ),
        ),
    )
    best = tuner.fit().get_best_result()
    print(f"loss {best.metrics['loss']:.4f} with {best.config}")


if __name__ == "__main__":
    main()
