"""A life in a process of its own, which a test can kill in earnest."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

import pbt
from pbt.control import resume
from searchspaces import Float, Space
from tests.chaos import faults
from tests.chaos.faults import Kill, Life

SPACE = Space({"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0), "lr": Float(0.001, 0.1, log=True)})


def make_sweep(storage: Path) -> pbt.Sweep:
    """Six members on three stacks, through the front door."""
    return pbt.Sweep(
        trainable="quadratic",
        space=SPACE,
        objective="Q",
        strategy="pbt",
        budget={"members": 6, "generations": 4, "steps": 10},
        hosts=pbt.Hosts(kind="local", stacks=3, compile="never"),
        storage=storage,
        tracking=False,
        checkpoints=pbt.Checkpoints(every_steps=10, every_minutes=None, keep=1),
    )


def live(storage: Path, kill: Kill | None, *, again: bool) -> None:
    """Begin the sweep, or go on with the one there is; die on the way, if so fated."""
    torch.set_num_threads(1)
    with faults.watched(), Life(storage, kill, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        if again:
            resume(only_run(storage), progress=False)
        else:
            make_sweep(storage).run(progress=False)


def only_run(storage: Path) -> Path:
    """The folder of the one run in a storage folder."""
    (file,) = storage.glob("*/run.json")
    return file.parent
