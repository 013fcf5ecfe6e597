"""Somebody's own torch.nn module, loss and metrics as a model of the training core.

The module is made anew for every member, with torch's random numbers seeded by it. Before anything is trained, a batch
goes through it as it is; then through two members of it, stacked if that can be, which must come to the same.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from trainables.base import HparamSpec
from trainables.core.generators import seeded
from trainables.core.model import Batch, Buffers, Parameter
from trainables.core.modules import StackedModule, stack_module
from trainables.core.rng import Draws, mix, seed_word, site
from trainables.errors import TrainableError
from trainables.own.tensors import Tables

_log = logging.getLogger(__name__)
_MAKE = site("module.make")
#: Farthest that two members side by side may be from the module by itself, in float32, relative to the largest value.
_SAME = 1e-3
#: Attributes of layers that every member has its own of, and what they are called as hyperparameters.
_LIVE: Mapping[str, tuple[str, HparamSpec]] = {
    "p": ("dropout", HparamSpec(kind="live", default=0.0, low=0.0, high=0.95, doc="share of elements dropped")),
    "momentum": (
        "bn_momentum",
        HparamSpec(kind="live", default=0.1, low=0.0, high=1.0, doc="share of a batch in running statistics"),
    ),
}

#: Of (output, *targets), and numbers by name: a mean over examples.
Measure: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True)
class Source:
    """What somebody gave: functions, and their names for people.

    Attributes:
        make: Makes the module.
        arguments: What it is given by name, as JSON.
        loss: Of (output, *targets).
        metrics: Likewise, by name.
        names: Of `model`, `loss` and the metrics, as they were given.
    """

    make: Callable[..., nn.Module]
    arguments: str
    loss: Measure
    metrics: tuple[tuple[str, Measure], ...]
    names: tuple[tuple[str, str], ...]

    def told(self, which: str) -> str:
        """One of them, for people."""
        return f"module {which} is {dict(self.names)[which]!r}"

    def fresh(self, seed: int) -> nn.Module:
        """A new module: a function of the seed alone.

        Raises:
            TrainableError: It cannot be made, or is no module.
        """
        with seeded(int(mix(mix(torch.tensor([seed_word(seed)])) + _MAKE)) % 2**63):
            try:
                made = self.make(**json.loads(self.arguments))
            except Exception as error:  # it is the user's
                mend = "mend it" if self.arguments == "{}" else f"mend it, or its arguments, {self.arguments}"
                raise TrainableError(f"{self.told('model')}, which raised {_told(error)}; {mend}") from error
        if not isinstance(made, nn.Module):
            raise TrainableError(f"{self.told('model')}, which gave a {type(made).__name__}; return a torch.nn.Module")
        return made


@dataclass(frozen=True, eq=False)
class Network:
    """A `trainables.core.model.Model` of batches of columns: what the module takes, then what only the loss takes.

    Attributes:
        source: What it was made of.
        stacked: The module, as members side by side.
        num_inputs: Columns that the module takes.
        trained: Names of its parameters that training changes: those that ask for it, and that the loss depends on.
        kept: What a member's buffers begin with in the template: those of the module's `state_dict`, and parameters
            that training leaves alone.
        constants: Buffers that are not in the `state_dict`: the template's, for all.
        live: Full names of layers' attributes, by hyperparameter.
        specs: Hyperparameters of the layers and of the loss.
        keywords: Those of the loss.
        in_turns: Names of the loss and metrics that are computed for one member after the other.
        flops: Of one member's forward and backward pass for one example, as torch counts them; None if it cannot.
    """

    source: Source
    stacked: StackedModule
    num_inputs: int
    trained: tuple[str, ...]
    kept: Mapping[str, Tensor]
    constants: Mapping[str, Tensor]
    live: Mapping[str, tuple[str, ...]]
    specs: Mapping[str, HparamSpec]
    keywords: tuple[str, ...]
    in_turns: frozenset[str]
    flops: float | None

    @property
    def eager(self) -> str:
        """Why it cannot be part of a compiled step; empty where it can."""
        if self.stacked.way != "stacked":
            return f"{self.source.told('model')} trains eagerly: {self.stacked.why}"
        if "loss" in self.in_turns:
            return f"{self.source.told('loss')} is computed for one member after the other, and training is eager"
        return ""

    def fresh(self, seed: int) -> dict[str, Tensor]:
        """A new member's parameters and buffers, by name."""
        module = self.source.fresh(seed)
        found = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return {name: found[name].detach() for name in (*self.trained, *self.kept)}

    def parameters(self) -> Mapping[str, Parameter]:
        """Those that training changes."""
        return {name: self.stacked.parameters[name] for name in self.trained}

    def buffers(self) -> Mapping[str, Tensor]:
        """All else that a member has of its own."""
        return {name: t if t.is_floating_point() else t.long() for name, t in self.kept.items()}

    def loss(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        hparams: Mapping[str, Tensor],
        draws: Draws,
        off: Collection[str] = (),
        buffers: Buffers | None = None,
    ) -> Tensor:
        """The members' losses `(K,)`."""
        # The template drops nothing, so what is 0 for everybody can be left out; statistics it would renew.
        given = {name: paths for name, paths in self.live.items() if name not in off or name == "bn_momentum"}
        live = {path: hparams[name] for name, paths in given.items() for path in paths}
        output, new = self._run(params, batch, buffers or {}, live=live, draws=draws, training=True)
        if buffers is not None:
            buffers.update(new)
        return self._measured("loss", output, batch, {name: hparams[name] for name in self.keywords})

    def evaluate(self, params: Mapping[str, Tensor], batch: Batch, buffers: Buffers | None = None) -> dict[str, Tensor]:
        """Loss and metrics `(K,)`, the loss with its own defaults."""
        num = len(next(iter(params.values())))
        batch = tuple(column.expand(num, *column.shape) for column in batch)
        output, _ = self._run(params, batch, buffers or {}, training=False)
        names = ("loss", *(name for name, _ in self.source.metrics))
        return {name: self._measured(name, output, batch, {}) for name in names}

    def _run(
        self, params: Mapping[str, Tensor], batch: Batch, buffers: Mapping[str, Tensor], **options: Any
    ) -> tuple[Any, dict[str, Tensor]]:
        """What the module gives, floating numbers in float32 or better, and its new buffers."""
        first = next(iter(params.values()))
        dtype, num = first.dtype, len(first)
        frozen = {name: buffers[name].to(dtype) for name in self.kept if name in self.stacked.parameters}
        own = {name: _like(buffers[name], t) for name, t in self.kept.items() if name not in frozen}
        constants = {
            name: (t.to(dtype) if t.is_floating_point() else t).to(first.device).expand(num, *t.shape)
            for name, t in self.constants.items()
        }
        inputs = [_cast(column, dtype) for column in batch[: self.num_inputs]]
        output, new = self.stacked({**params, **frozen}, *inputs, buffers={**own, **constants}, **options)
        wide = torch.promote_types(dtype, torch.float32)
        renewed = {name: new[name].detach().to(buffers[name].dtype) for name in own if new[name] is not own[name]}
        return tree_map(lambda value: _cast(value, wide), output), renewed

    def _measured(self, name: str, output: Any, batch: Batch, keywords: Mapping[str, Tensor]) -> Tensor:
        measure = self.source.loss if name == "loss" else dict(self.source.metrics)[name]
        wide = next((leaf.dtype for leaf in tree_leaves(output) if _is_floating(leaf)), torch.float32)
        targets = tuple(_cast(column, wide) for column in batch[self.num_inputs :])
        given = {keyword: value.to(wide) for keyword, value in keywords.items()}
        found = _members(measure, output, targets, given, turns=name in self.in_turns)
        return found if found.is_floating_point() else found.to(wide)


@lru_cache(maxsize=4)
def network(source: Source, data: Tables, batch: int) -> Network:
    """Try somebody's module, loss and metrics out, and find the fastest way to run them.

    Args:
        source: The functions.
        data: What it is trained on.
        batch: Examples of a training batch.

    Raises:
        TrainableError: They do not work together; the message says what raised what.
    """
    rows = tuple(column[:batch] for column in data.columns["train"])
    inputs, targets = rows[: data.num_inputs], rows[data.num_inputs :]
    template = source.fresh(0)
    alone = _alone(source, source.fresh(0), inputs, targets)
    live, specs = _quieted(template)
    keywords = _keywords(source, {*specs})
    stacked, output = _stacked(source, template, inputs)
    buffers, persistent = dict(template.named_buffers()), template.state_dict(keep_vars=True)
    kept = {name: t.detach().clone() for name, t in buffers.items() if name in persistent}
    kept |= {n: p.detach().clone() for n, p in template.named_parameters() if n not in alone.trained}
    return Network(
        source=source,
        stacked=stacked,
        num_inputs=data.num_inputs,
        trained=alone.trained,
        kept=kept,
        constants={name: t.detach().clone() for name, t in buffers.items() if name not in persistent},
        live=live,
        specs={**specs, **keywords},
        keywords=tuple(keywords),
        in_turns=_in_turns(source, output, targets, keywords),
        flops=None if alone.flops is None else alone.flops / len(rows[0]),
    )


# --- trying out


@dataclass(frozen=True)
class _Alone:
    trained: tuple[str, ...]
    flops: float | None


def _alone(source: Source, module: nn.Module, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> _Alone:
    """The module by itself on a batch: what is wrong with it is told here, and what the loss depends on is seen."""
    inputs = [_cast(column, torch.float32) for column in inputs]
    targets = [_cast(column, torch.float32) for column in targets]
    shapes = ", ".join(f"{column.dtype} {list(column.shape)}" for column in inputs)
    module = module.float().train()
    with seeded(0), FlopCounterMode(display=False) as counter:
        try:
            output = module(*inputs)
        except Exception as error:  # it is the user's
            mend = "mend it, or the data"
            raise TrainableError(f"{source.told('model')}, which raised {_told(error)} on {shapes}; {mend}") from error
        value = _checked(source, "loss", source.loss, output, targets)
        if not value.requires_grad:
            raise TrainableError(f"{source.told('loss')}, which does not depend on the model's parameters; mend it")
        value.backward()
    for name, metric in source.metrics:
        _checked(source, name, metric, tree_map(_detached, output), targets)
    trained = tuple(name for name, p in module.named_parameters() if p.requires_grad and p.grad is not None)
    for name in trained:
        if not module.get_parameter(name).is_floating_point():
            raise TrainableError(f"{source.told('model')}, whose {name} is not of real numbers; train it by a function")
    # Recurrent layers are one operation on a CPU, of which torch counts nothing.
    is_counted = not any(isinstance(part, nn.RNNBase) for part in module.modules())
    return _Alone(trained, float(counter.get_total_flops()) or None if is_counted else None)


def _checked(source: Source, name: str, measure: Measure, output: Any, targets: Sequence[Tensor]) -> Tensor:
    what = source.told(name)
    try:
        value = measure(output, *targets)
    except Exception as error:  # it is the user's
        takes = f"measure(output, {', '.join('target' for _ in targets)})"
        raise TrainableError(f"{what}, which raised {_told(error)}; it is called as {takes}") from error
    if not isinstance(value, Tensor) or value.ndim:
        found = f"{list(value.shape)} values" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TrainableError(
            f"{what}, which gave {found}; give the mean over the examples, a tensor without dimensions"
        )
    return value


def _stacked(source: Source, template: nn.Module, inputs: Sequence[Tensor]) -> tuple[StackedModule, Any]:
    """The fastest way to run two members that does what the module does, and what they gave."""
    members = [source.fresh(seed).float() for seed in (0, 1)]
    params = {
        n: torch.stack([dict(m.named_parameters())[n].detach() for m in members])
        for n, _ in template.named_parameters()
    }
    buffers = {n: torch.stack([dict(m.named_buffers())[n] for m in members]) for n, _ in template.named_buffers()}
    own = [_cast(column, torch.float32) for column in inputs]
    both = [torch.stack([column, column.flip(0)]) for column in own]
    seeds, why = torch.arange(2), ""
    for turns in (False, True):
        stacked = stack_module(template, turns=turns)
        try:
            leaves = {name: t.clone().requires_grad_() for name, t in params.items()}
            trained, _ = stacked(leaves, *both, buffers=dict(buffers), draws=Draws(seeds, seeds))
            sum(leaf.sum() for leaf in tree_leaves(trained) if _is_floating(leaf)).backward()
            with torch.no_grad():
                found, _ = stacked(params, *both, buffers=dict(buffers), training=False)
                if not turns:
                    _compare(members, both, found)
        except Exception as error:  # torch's, of many kinds
            if turns:
                mend = "adapt.from_function takes any training loop"
                raise TrainableError(
                    f"{source.told('model')}, which raised {_told(error)} as a member; {mend}"
                ) from error
            why = _told(error) if isinstance(error, TrainableError) else f"{stacked.way}: {_told(error)}"
            continue
        if turns:
            _log.warning("%s: its members train one after the other, which is slower (%s)", source.told("model"), why)
        return stacked, found
    raise AssertionError("the last way returns or raises")


def _compare(members: Sequence[nn.Module], both: Sequence[Tensor], found: Any) -> None:
    """Side by side, members must give what each gives by itself.

    Raises:
        TrainableError: They do not.
    """
    for slot, member in enumerate(members):
        expected = member.eval()(*(column[slot] for column in both))
        for mine, theirs in zip(tree_leaves(found), tree_leaves(expected), strict=True):
            if isinstance(theirs, Tensor) and not _is_same(mine[slot], theirs):
                raise TrainableError("side by side its members give other values than each by itself")


def _is_same(mine: Tensor, theirs: Tensor) -> bool:
    if mine.shape != theirs.shape:
        return False
    if not theirs.is_floating_point():
        return torch.equal(mine, theirs)
    scale = float(theirs.abs().nan_to_num().max()) if theirs.numel() else 0.0
    return torch.allclose(mine, theirs, rtol=0.0, atol=_SAME * scale, equal_nan=True)


def _quieted(template: nn.Module) -> tuple[dict[str, tuple[str, ...]], dict[str, HparamSpec]]:
    """Layers' attributes by hyperparameter, and what these are. Where layers differ, each has its own.

    The template's dropout is set to 0: it is the hyperparameter's.
    """
    found: dict[str, dict[str, float]] = {}
    for path, value in stack_module(template).live.items():
        found.setdefault(path.rpartition(".")[2], {})[path] = value
    live: dict[str, tuple[str, ...]] = {}
    specs: dict[str, HparamSpec] = {}
    for attribute, values in found.items():
        name, spec = _LIVE[attribute]
        agree = len(set(values.values())) == 1
        for own, paths in {name: tuple(values)}.items() if agree else {path: (path,) for path in values}.items():
            live[own], specs[own] = paths, replace(spec, default=values[paths[0]])
    for path in found.get("p", {}):
        cast(nn.Dropout, template.get_submodule(path.rpartition(".")[0])).p = 0.0
    return live, specs


def _keywords(source: Source, taken: Collection[str]) -> dict[str, HparamSpec]:
    """Keyword-only arguments of the loss whose defaults are floats: hyperparameters."""
    try:
        parameters = inspect.signature(source.loss).parameters.values()
    except (TypeError, ValueError):  # of some built-in functions, Python knows nothing
        return {}
    found = {}
    for parameter in parameters:
        default = parameter.default
        if parameter.kind is parameter.KEYWORD_ONLY and isinstance(default, float):
            if parameter.name in taken:
                raise TrainableError(f"{source.told('loss')}, whose {parameter.name!r} is the model's, too; rename it")
            found[parameter.name] = HparamSpec(kind="live", default=default, doc="of the loss")
    return found


def _in_turns(
    source: Source, output: Any, targets: Sequence[Tensor], keywords: Mapping[str, HparamSpec]
) -> frozenset[str]:
    """Names of the loss and metrics that do not run under vmap, or give something else there."""
    both = tuple(torch.stack([t, t.flip(0)]) for t in (_cast(column, torch.float32) for column in targets))
    given = {name: torch.full((2,), float(str(spec.default))) for name, spec in keywords.items()}
    measures = [("loss", source.loss, given), *((name, metric, {}) for name, metric in source.metrics)]
    return frozenset(name for name, measure, known in measures if not _is_mapped(measure, output, both, known))


def _is_mapped(measure: Measure, output: Any, targets: tuple[Tensor, ...], keywords: Mapping[str, Tensor]) -> bool:
    try:
        found = _members(measure, output, targets, keywords, turns=False)
    except Exception:  # torch's, of many kinds; in turns it is known to work
        return False
    return _is_same(found, _members(measure, output, targets, keywords, turns=True))


# --- tensors


def _members(
    measure: Measure, output: Any, targets: tuple[Tensor, ...], keywords: Mapping[str, Tensor], *, turns: bool
) -> Tensor:
    """`(K,)`: of every member's output and targets. In turns, keywords are plain numbers."""

    def one(output: Any, targets: tuple[Tensor, ...], keywords: Mapping[str, Any]) -> Tensor:
        return measure(output, *targets, **keywords)

    if not turns:
        together: Tensor = torch.vmap(one)(output, targets, dict(keywords))
        return together
    num = len(next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)))
    numbers = {name: value.tolist() for name, value in keywords.items()}
    found = []
    for slot in range(num):
        of_output, of_targets = tree_map(lambda t: t[slot], (output, targets))  # noqa: B023
        found.append(one(of_output, of_targets, {name: values[slot] for name, values in numbers.items()}))
    return torch.stack(found)


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if _is_floating(value) else value


def _like(value: Tensor, template: Tensor) -> Tensor:
    """A buffer as the module has it: whole numbers and flags are kept as int64."""
    return value if template.is_floating_point() else value.to(template.dtype)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _told(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, TrainableError) else f"{type(error).__name__}: {text}"
