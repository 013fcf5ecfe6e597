"""What a training loop keeps: modules, optimizers, schedulers, and whatever else knows its own state.

Weights, moments and the place in a schedule belong to what was trained, and move with it. The height of a learning
rate belongs to the member that trains now. A state of an optimizer or scheduler holds both, mixed; they are told apart
by what has changed since the object was made: the rest is as the loop's own code made it, with the hyperparameters it
asked for, and stays.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainables.errors import TrainableError
from trainables.own.trees import put_together, taken_apart

Save: TypeAlias = Callable[[], Any]
Load: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Content:
    """What was kept.

    Attributes:
        tensors: By name; those of modules' parameters begin with `params.`.
        forms: What else there is of modules, optimizers and the user's own, for JSON.
        places: Where schedulers are, for JSON.
    """

    tensors: Mapping[str, Tensor]
    forms: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, Any] = field(default_factory=dict)


class Kept:
    """The objects of one training loop, as they were just made.

    Args:
        objects: By the names they are kept under.
        save: Gives all that `load` needs to go on, for what is none of these.
        load: Takes it back.

    Raises:
        TrainableError: There is nothing to keep, or an object does not know its state.
    """

    def __init__(self, objects: Mapping[str, Any], save: Save | None = None, load: Load | None = None) -> None:
        if (save is None) != (load is None):
            given, missing = ("load", "save") if save is None else ("save", "load")
            raise TrainableError(f"resume() has {given} without {missing}; give both")
        if not objects and save is None:
            raise TrainableError(
                "resume() was given nothing to keep; give what changes in training, as in "
                "resume(model=model, optimizer=optimizer), or save and load"
            )
        for name, it in objects.items():
            if not all(callable(getattr(it, method, None)) for method in ("state_dict", "load_state_dict")):
                told = f"resume() was given {name}, a {type(it).__name__} without state_dict and load_state_dict"
                raise TrainableError(f"{told}; give save and load instead")
        self._objects, self._save, self._load = dict(objects), save, load
        self._groups = {name: _settings(it) for name, it in self._of(Optimizer)}
        self._made = {name: _leaves(it.state_dict()) for name, it in self._of(LRScheduler)}

    def save(self) -> Content:
        """What there is now, not copied.

        Raises:
            TrainableError: Something cannot be kept.
        """
        tensors: dict[str, Tensor] = {}
        forms: dict[str, Any] = {}
        for name, module in self._of(nn.Module):
            forms[name], found = taken_apart(dict(module.state_dict()), name)
            tensors |= _renamed(found, name, {it for it, _ in module.named_parameters(remove_duplicate=False)})
        for name, optimizer in self._of(Optimizer):
            form, found = taken_apart(optimizer.state_dict()["state"], f"optimizer.{name}")
            forms[name] = {"state": form, "settings": self._changed_settings(name, optimizer)}
            tensors |= found
        for name, other in self._others():
            forms[name], found = taken_apart(other.state_dict(), f"other.{name}")
            tensors |= found
        if self._save is not None:
            forms[_OWN], found = taken_apart(self._save(), _OWN)
            tensors |= found
        places = {name: self._place(name, it) for name, it in self._of(LRScheduler)}
        return Content({name: it.contiguous() for name, it in tensors.items()}, forms, places)

    def load(self, content: Content) -> None:
        """Go on from what was kept, with this loop's own hyperparameters.

        Raises:
            TrainableError: It does not fit, or was not taken over whole.
        """
        tensors = content.tensors
        for name, module in self._of(nn.Module):
            own = {it for it, _ in module.named_parameters(remove_duplicate=False)}
            plain = {_plain(it, name, own): tensor for it, tensor in tensors.items()}
            self._give(name, module.load_state_dict, put_together(content.forms.get(name), plain))
        for name, optimizer in self._of(Optimizer):
            form = content.forms.get(name) or {"state": {"dict": []}}
            groups = optimizer.state_dict()["param_groups"]
            state = put_together(form["state"], tensors)
            self._give(name, optimizer.load_state_dict, {"state": state, "param_groups": groups})
        for name, other in self._others():
            self._give(name, other.load_state_dict, put_together(content.forms.get(name), tensors))
        if self._load is not None:
            self._give("load()", self._load, put_together(content.forms.get(_OWN), tensors))
        self._check(content)
        for name, optimizer in self._of(Optimizer):
            self._set(name, optimizer, (content.forms.get(name) or {}).get("settings", []))
        for name, scheduler in self._of(LRScheduler):
            _go_to(scheduler, content.places.get(name, []))

    def _of(self, kind: Any) -> Iterator[tuple[str, Any]]:
        return ((name, it) for name, it in self._objects.items() if isinstance(it, kind))

    def _others(self) -> Iterator[tuple[str, Any]]:
        known = (nn.Module, Optimizer, LRScheduler)
        return ((name, it) for name, it in self._objects.items() if not isinstance(it, known))

    def _give(self, name: str, load: Load, state: Any) -> None:
        try:
            load(state)
        except Exception as error:  # it is the user's, or torch's of the user's module
            problem = f"{type(error).__name__}: {error}"
            raise TrainableError(f"{name} does not take back what it gave; mend it ({problem})") from error

    def _check(self, given: Content) -> None:
        """What is saved again must be what was loaded: else something was forgotten, and would be lost each time."""
        found = self.save()
        for name in [*given.tensors, *found.tensors]:
            if not _same(given.tensors.get(name), found.tensors.get(name)):
                told = f"{name} is not what it was after it was loaded and saved again"
                raise TrainableError(f"{told}; let load() take back all that save() gives")
        own = (given.forms.get(_OWN), found.forms.get(_OWN))
        if repr(own[0]) != repr(own[1]):
            told = f"load() was given {own[0]!r}, and save() then gave {own[1]!r}"
            raise TrainableError(f"{told}; let load() take back all that save() gives")

    # ---------------------------------------------------------------------------------------------------- settings

    def _changed_settings(self, name: str, optimizer: Optimizer) -> list[list[Any]]:
        """`[group, key, value, value when made]` of the settings that training has changed, as schedules do."""
        return [
            [number, key, now[key], made.get(_BASE_OF.get(key, key), made.get(key))]
            for number, (made, now) in enumerate(zip(self._groups[name], _settings(optimizer), strict=False))
            for key in now
            if key in made and now[key] != made[key]
        ]

    def _set(self, name: str, optimizer: Optimizer, changed: Sequence[Sequence[Any]]) -> None:
        """Change what the donor's schedule had changed, in proportion to what this loop has made."""
        for number, key, value, base in changed:
            made = self._groups[name][number] if number < len(self._groups[name]) else {}
            own = made.get(_BASE_OF.get(key, key), made.get(key))
            if isinstance(value, list):
                value = tuple(map(_scaled, value, base or value, own or value))
            else:
                value = _scaled(value, base, own)
            optimizer.param_groups[number][key] = value

    def _place(self, name: str, scheduler: LRScheduler) -> list[list[Any]]:
        """`[path, value]` of what has changed since the scheduler was made."""
        made, now = self._made[name], _leaves(scheduler.state_dict())
        changed = [[list(path), value] for path, value in now.items() if path not in made or made[path] != value]
        for path, value in changed:
            if not (value is None or isinstance(value, bool | int | float | str)):
                told = f"{name}.{'.'.join(map(str, path))} is a {type(value).__name__}, which is not kept"
                raise TrainableError(f"{told}; give resume() save and load instead of {name}")
        return changed


_OWN = "own"
#: What a setting is a multiple of, where that is not what it was itself when it was made.
_BASE_OF = {"lr": "initial_lr"}
#: Learning rates as they were last set: they follow from the optimizer's.
_RATES = "_last_lr"


def _settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Of each group, what JSON can hold."""
    return [
        {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in group.items()
            if key != "params" and isinstance(value, bool | int | float | str | tuple)
        }
        for group in optimizer.param_groups
    ]


def _scaled(value: Any, base: Any, own: Any) -> Any:
    numbers = all(isinstance(it, int | float) and not isinstance(it, bool) for it in (value, base, own))
    return value if not numbers or own == base or not base else value * (own / base)


def _leaves(tree: Any, path: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], Any]:
    """What stands at the ends of nested mappings and lists, by path."""
    items: Iterator[tuple[Any, Any]]
    if isinstance(tree, Mapping):
        items = iter(tree.items())
    elif isinstance(tree, list | tuple):
        items = iter(enumerate(tree))
    else:
        return {path: copy.deepcopy(tree)} if _RATES not in path else {}
    return {p: leaf for key, inner in items for p, leaf in _leaves(inner, (*path, key)).items()}


def _go_to(scheduler: LRScheduler, changed: Sequence[Sequence[Any]]) -> None:
    state = copy.deepcopy(scheduler.state_dict())
    for path, value in changed:
        *way, last = path
        at = state
        for key in way:
            at = at[key]
        at[last] = value
    scheduler.load_state_dict(state)
    for it in (scheduler, *getattr(scheduler, "_schedulers", ())):
        if hasattr(it, _RATES):
            setattr(it, _RATES, [group["lr"] for group in it.optimizer.param_groups])


def _renamed(tensors: Mapping[str, Tensor], name: str, parameters: set[str]) -> dict[str, Tensor]:
    """Names by which it is seen what is a parameter."""
    return {_named(it.removeprefix(f"{name}."), name, parameters): tensor for it, tensor in tensors.items()}


def _named(plain: str, name: str, parameters: set[str]) -> str:
    return f"{'params' if plain in parameters else 'buffers'}.{name}.{plain}"


def _plain(full: str, name: str, parameters: set[str]) -> str:
    """The name that a tensor has in the form of a module."""
    for kind in ("params", "buffers"):
        if full.startswith(f"{kind}.{name}."):
            return full.removeprefix(f"{kind}.")
    return full


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = one.to("cpu"), other.to("cpu")
    both = (torch.isnan(one) & torch.isnan(other)) if one.is_floating_point() else torch.zeros((), dtype=torch.bool)
    return bool(((one == other) | both).all())
