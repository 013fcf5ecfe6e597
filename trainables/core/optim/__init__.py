"""Stacked optimizers: one update of K members, each with its own `(K,)` hyperparameters.

A file for each update rule; `registry.py` gives them by name. Formulas are those of torch.optim where it has the rule
and of the paper where it has not, with the scalars replaced by per-member tensors; the tests hold them to it. No
operation reduces over members, so a NaN stays where it arose, and none reads the device, so a step can be one compiled
graph. `TorchOptimizer` is the exception to the latter: it lets any class of torch.optim train members, eagerly.
"""

from trainables.core.optim.adamw import AdamW
from trainables.core.optim.base import MEMBER, UNIT, Buffer, Optimizer, Scale
from trainables.core.optim.bridge import TorchOptimizer
from trainables.core.optim.clip import CLIP_NORM, clip, gradient_norm
from trainables.core.optim.lamb import LAMB
from trainables.core.optim.lars import LARS
from trainables.core.optim.nadamw import NAdamW
from trainables.core.optim.registry import REGISTERED, ready
from trainables.core.optim.sgd import SGD

__all__ = [
    "CLIP_NORM",
    "LAMB",
    "LARS",
    "MEMBER",
    "REGISTERED",
    "SGD",
    "UNIT",
    "AdamW",
    "Buffer",
    "NAdamW",
    "Optimizer",
    "Scale",
    "TorchOptimizer",
    "clip",
    "gradient_norm",
    "ready",
]
