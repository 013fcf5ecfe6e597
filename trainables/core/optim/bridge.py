"""Any class of torch.optim, training members side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from trainables.base import HparamSpec, TrainableError
from trainables.core.optim.base import NO_SCALES, Buffer, Scale, Tensors
from trainables.errors import nearest


@dataclass(frozen=True)
class TorchOptimizer:
    """A class of torch.optim, or one written like them, with live hyperparameters for every member.

    At each update torch's optimizer gets parameter groups over views of the stack's tensors: one group for each member,
    or two where the class has a `weight_decay`, which acts on some parameters only. Hyperparameters in effect are
    written into the groups, and its state is views of the stack's buffers, so that copies, evictions and checkpoints
    are exact. At a member's first update torch makes the state itself, as it would for a member alone.

    Eager only: never compiled, members one after another, and the device is read at every update. A stacked optimizer
    of the same name is faster. On CUDA, `options={"capturable": True}` saves further reading where the class knows it.

    Closures (LBFGS), sparse gradients (SparseAdam) and state in parameter groups are refused when a stack is built.
    State in attributes of the optimizer cannot be seen and is lost at every update. State that torch begins to keep
    when a hyperparameter leaves 0 (the momentum of SGD and RMSprop) is there from the start, as zeros, which is the
    same but for SGD with dampening.

    Attributes:
        make: The class.
        live: What may change, by name; `lr` is one of them. A name is an option of the class, or an option that is a
            pair or triple, in the singular and numbered: `beta1` is the first of `betas`, `step_size2` the second of
            `step_sizes`. What torch reads but once (the `lr` of Rprop) acts on fresh members only.
        options: Further options of the class, the same for every member.
        name: Prefix of the state; empty for `torch.` and the class's name in lower case.
    """

    make: Callable[..., torch.optim.Optimizer]
    live: Mapping[str, HparamSpec]
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    moments: ClassVar[tuple[str, ...]] = ()
    compiles: ClassVar[bool] = False
    family: ClassVar[str] = ""
    # Where each live hyperparameter is in a parameter group: its option, and the index if that is a tuple.
    _places: Mapping[str, tuple[str, int | None]] = field(init=False, repr=False)
    _defaults: Mapping[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find every live hyperparameter among the options of the class."""
        if not self.name:
            object.__setattr__(self, "name", f"torch.{getattr(self.make, '__name__', 'optimizer').lower()}")
        if "lr" not in self.live:
            raise TrainableError(f"optimizer {self.name} has no live 'lr'; give it one")
        defaults = dict(self._built([{"params": [torch.zeros(1, 1)]}]).defaults)
        object.__setattr__(self, "_defaults", defaults)
        object.__setattr__(self, "_places", {name: _place(self.name, name, defaults) for name in self.live})

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """What was declared live."""
        return self.live

    def buffers(self, params: Tensors) -> Mapping[str, Buffer]:
        """Whatever torch keeps for each parameter, found by updating one member of zeros.

        Raises:
            TrainableError: The class cannot be bridged, or not with these parameters.
        """
        twins = {name: torch.zeros_like(param[0]) for name, param in params.items()}
        for twin in twins.values():
            twin.grad = torch.ones_like(twin)
        # At 0 some state would not show.
        values = {name: spec.default or min(0.5, spec.high or 0.5) for name, spec in self.live.items()}
        optimizer = self._built([{"params": list(twins.values()), **self._settings(values)}])
        before = dict(optimizer.param_groups[0])
        try:
            optimizer.step()
        except Exception as error:
            raise TrainableError(f"optimizer {self.name} cannot be bridged: {error}") from error
        after = optimizer.param_groups[0]
        if after.keys() != before.keys() or any(after[key] != before[key] for key in after if key != "params"):
            raise TrainableError(f"optimizer {self.name} cannot be bridged: it keeps state in its parameter groups")
        found: dict[str, dict[str, Tensor]] = {}
        for name, twin in twins.items():
            for kind, value in optimizer.state[twin].items():
                if value is not None:
                    found.setdefault(kind, {})[name] = self._as_tensor(kind, value)
        for kind, tensors in found.items():
            if len({tensor.dtype for tensor in tensors.values()}) > 1:
                raise TrainableError(f"optimizer {self.name} cannot be bridged: its state {kind!r} has several dtypes")
        return {kind: _buffer(tensors) for kind, tensors in found.items()}

    @torch.no_grad()
    def update(
        self,
        params: Tensors,
        grads: Tensors,
        moments: Mapping[str, Tensors],
        step: Tensor,
        lr: Tensor,
        hparams: Tensors,
        decayed: Collection[str],
        scales: Mapping[str, Scale] = NO_SCALES,
    ) -> None:
        """One update by torch; see `Optimizer.update`."""
        # Built anew each time, which takes less than the update: nothing can be left over from other members.
        *columns, fresh = self._columns(lr, hparams, step, next(iter(params.values())).dtype)
        members = [dict(zip(self.live, values, strict=True)) for values in zip(*columns, strict=True)]
        weights = {name: param.detach().unbind() for name, param in params.items()}
        state = {
            name: {kind: _rows(tensors[name]) for kind, tensors in moments.items() if name in tensors}
            for name in weights
        }
        optimizer = self._built(self._groups(weights, members, decayed))
        for name, views in weights.items():
            for member, (view, grad) in enumerate(zip(views, grads[name].unbind(), strict=True)):
                view.grad = grad
                if not fresh[member]:
                    optimizer.state[view] = {kind: rows[member] for kind, rows in state[name].items()}
        optimizer.step()
        for name, views in weights.items():
            for member, view in enumerate(views):
                for kind, value in optimizer.state[view].items():
                    # Torch changes most of its state in place; the rest is new objects.
                    if value is None or (kind in state[name] and value is state[name][kind][member]):
                        continue
                    if kind not in state[name]:
                        # Dropping it would go unnoticed until a member is copied or resumed.
                        raise TrainableError(f"optimizer {self.name} began to keep {kind!r} after the first update")
                    moments[kind][name][member] = value

    def _columns(self, lr: Tensor, hparams: Tensors, step: Tensor, dtype: torch.dtype) -> list[list[float]]:
        """Values of each live hyperparameter by member, and whether this is its first update: one read."""
        rows = [lr if name == "lr" else hparams[name] for name in self.live]
        values = torch.stack([*rows, (step == 1).to(lr.dtype)])
        # Torch raises at numbers beyond the dtype, which would stop all members; infinite, they spoil their own. The
        # margin is for what it computes from them, such as lr / (1 - beta1).
        values = torch.where(values > torch.finfo(dtype).max * 1e-8, torch.inf, values)
        columns: list[list[float]] = values.tolist()
        return columns

    def _groups(
        self, weights: Mapping[str, Sequence[Tensor]], members: Sequence[Mapping[str, float]], decayed: Collection[str]
    ) -> list[dict[str, Any]]:
        """Parameter groups of all members: those that decay and those that do not apart, if the class decays."""
        if "weight_decay" not in self._defaults:
            parts: list[tuple[list[str], dict[str, float]]] = [(list(weights), {})]
        else:
            spared = [name for name in weights if name not in decayed]
            parts = [([name for name in weights if name in decayed], {}), (spared, {"weight_decay": 0.0})]
        return [
            {"params": [weights[name][member] for name in names], **self._settings(values), **extra}
            for member, values in enumerate(members)
            for names, extra in parts
            if names
        ]

    def _settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a parameter group with these live hyperparameters."""
        settings: dict[str, Any] = {}
        for name, value in values.items():
            option, index = self._places[name]
            if index is None:
                settings[option] = value
            else:
                whole = list(settings.get(option, self._defaults[option]))
                whole[index] = value
                settings[option] = tuple(whole)
        return settings

    def _built(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        try:
            return self.make(groups, **{"lr": self.live["lr"].default, **self.options})
        except (TypeError, ValueError, RuntimeError) as error:
            raise TrainableError(f"optimizer {self.name} cannot be made: {error}") from error

    def _as_tensor(self, kind: str, value: object) -> Tensor:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return torch.tensor(value)
        raise TrainableError(f"optimizer {self.name} cannot be bridged: its state {kind!r} is a {type(value).__name__}")


def _place(optimizer: str, name: str, defaults: Mapping[str, Any]) -> tuple[str, int | None]:
    """Where a hyperparameter is in a parameter group."""
    known: dict[str, tuple[str, int | None]] = {}
    for option, value in defaults.items():
        known[option] = (option, None)
        if isinstance(value, tuple | list):
            known |= {f"{option.removesuffix('s')}{i + 1}": (option, i) for i in range(len(value))}
    if name not in known:
        raise TrainableError(f"optimizer {optimizer} has no option {name!r}; {nearest(name, known)}")
    return known[name]


def _buffer(tensors: Mapping[str, Tensor]) -> Buffer:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Buffer(shapes=shapes, dtype=next(iter(tensors.values())).dtype)


def _rows(tensor: Tensor) -> Sequence[Any]:
    """Each member's part, as torch expects it: views, but whole numbers as numbers of Python."""
    if tensor.dtype == torch.int64 and tensor.ndim == 1:
        numbers: list[int] = tensor.tolist()
        return numbers
    return tensor.unbind()
