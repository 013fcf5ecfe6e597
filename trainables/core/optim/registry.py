"""Ready optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from trainables.core.optim.adamw import AdamW
from trainables.core.optim.base import Optimizer, live, lr_spec
from trainables.core.optim.bridge import TorchOptimizer
from trainables.core.optim.lamb import LAMB
from trainables.core.optim.lars import LARS
from trainables.core.optim.nadamw import NAdamW
from trainables.core.optim.sgd import SGD
from trainables.errors import TrainableError, nearest


def _rmsprop() -> Optimizer:
    hparams = {
        "lr": lr_spec(1e-3),
        "weight_decay": live(0.0, "coupled"),
        "alpha": live(0.99, "decay of the mean square", high=1.0),
        "momentum": live(0.0, "momentum", high=1.0),
    }
    return TorchOptimizer(torch.optim.RMSprop, hparams)


#: How to make each optimizer, with defaults for small models trained from scratch. A name in use keeps its meaning:
#: it is in the options of recorded sweeps. Those of `torch.` are bridged and run eagerly.
REGISTERED: Mapping[str, Callable[[], Optimizer]] = {
    "adamw": lambda: AdamW(lr=3e-3, weight_decay=0.1),
    "nadamw": lambda: NAdamW(lr=3e-3, weight_decay=0.1),
    "lamb": lambda: LAMB(lr=1e-2, weight_decay=0.1),
    "lars": lambda: LARS(),
    "sgd": lambda: SGD(momentum=True, lr=0.1),
    "nesterov": lambda: SGD(momentum=True, nesterov=True, lr=0.1),
    "sgdw": lambda: SGD(momentum=True, decay="decoupled", lr=0.1, weight_decay=1e-3),
    "torch.rmsprop": _rmsprop,
}


def ready(name: str) -> Optimizer:
    """Make a registered optimizer.

    Raises:
        TrainableError: No optimizer has this name; the message says which one is nearest.
    """
    if not isinstance(name, str) or name not in REGISTERED:
        raise TrainableError(f"optimizer is {name!r}; {nearest(str(name), REGISTERED)}")
    return REGISTERED[name]()
