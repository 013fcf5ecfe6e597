"""A plain torch.nn.Module, run as K members side by side.

Where every part of it is registered (`layers.LAYERS`, `tracing.FUNCTIONS`), it runs stacked: one kernel for all
members. Any other module runs as it is under `torch.vmap`, which needs no registration, and may be slower or, for
operations without a batching rule, impossible. Then it can run as it is for one member after the other, which is always
possible and saves nothing. `StackedModule.way` says which, `why` what keeps it from being stacked.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from trainables.core.generators import seeded
from trainables.core.layers import LAYERS, At, Call
from trainables.core.model import Parameter, initial_values
from trainables.core.rng import Draws, site
from trainables.core.tracing import Steps, Unstackable, trace
from trainables.errors import TrainableError, nearest

_TURNS = site("modules.turns")


@dataclass(frozen=True)
class StackedModule:
    """K members of one template; made by `stack_module`.

    Holds no weights: parameters and buffers are passed in, new buffers are returned. To train, sum the members'
    losses and differentiate: the sum's gradient is 1 for each of them, so this is every member's own gradient.

    Computes in the dtype of its parameters; cast them and the inputs rather than rely on autocast, which torch 2.13
    only partly heeds under vmap on the CPU.

    Attributes:
        way: `stacked`: by registered layers; `vmap`: the template itself under torch.vmap; `turns`: the template
            itself, one member after the other.
        why: What kept the template from being stacked: its first part without a stacked form, by name. Empty where
            it is.
        parameters: What each parameter of one member starts from, by the template's names.
        buffers: Each buffer of one member at first, by the template's names.
        live: Attributes that can be given as `(K,)` tensors in each call, by full name, with the template's values.
    """

    way: Literal["stacked", "vmap", "turns"]
    why: str
    parameters: Mapping[str, Parameter]
    buffers: Mapping[str, Tensor]
    live: Mapping[str, float]
    _names: Mapping[str, str] = field(repr=False)
    _run: Any = field(repr=False)

    def initial(
        self, seeds: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Initial parameters and buffers of members with these seeds.

        Each member's are a function of its own seed only: not of its slot, the others or K.

        Args:
            seeds: One per member.
            dtype: Of everything floating.
            device: Where to put it; values are drawn on the CPU.

        Returns:
            `[K, *shape]` by name: parameters, buffers.
        """
        members = [initial_values(self.parameters, seed) for seed in seeds]
        params = {name: torch.stack([member[name] for member in members]).to(device, dtype) for name in self.parameters}
        buffers = {
            name: value.repeat(len(seeds), *(1,) * value.ndim).to(
                device, dtype if value.is_floating_point() else value.dtype
            )
            for name, value in self.buffers.items()
        }
        return params, buffers

    def __call__(
        self,
        params: Mapping[str, Tensor],
        *inputs: Any,
        buffers: Mapping[str, Tensor] | None = None,
        live: Mapping[str, Tensor] | None = None,
        draws: Draws | None = None,
        training: bool = True,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run every member on its own inputs.

        Args:
            params: `[K, *shape]` by name.
            inputs: What the template's forward takes, each with the member dimension in front: `[K, ...]`.
            buffers: `[K, *shape]` by name, left as they are.
            live: `(K,)` by full name (see `live`); those left out take the template's values.
            draws: Source of every random number; needed in training where something is dropped out.
            training: Whether to act as in training, in every part.

        Returns:
            What the template's forward returns, with the member dimension in front, and the new buffers.

        Raises:
            TrainableError: A live name is unknown, draws are missing, or torch.vmap cannot run the template.
        """
        for name in live or {}:
            if name not in self.live:
                raise TrainableError(f"live {name!r} is unknown; {nearest(name, self.live)}")
        call = Call(params, dict(buffers or {}), live or {}, self._names, draws, training)
        return self._run(call, inputs), call.buffers


def stack_module(template: nn.Module, *, turns: bool = False) -> StackedModule:
    """Prepare a module to run as members side by side.

    Args:
        template: Any module; it is copied. Its weights count only where nothing says what they start from: own
            parameters of a module that is neither registered nor has a `reset_parameters` start at the template's
            values in every member. A `reset_parameters` is called with torch's generator seeded by the member.
        turns: Whether to run it for one member after the other, for what can run neither stacked nor under vmap. It may
            then draw from torch's generator, which is seeded for each member and step.

    Returns:
        The stacked module; its `way` says how it will run.
    """
    module = copy.deepcopy(template)
    names = _names(module)
    why, run = "", None
    try:
        run = _Stacked({mode: trace(copy.deepcopy(module), names, mode) for mode in (True, False)})
    except Unstackable as reason:
        why = str(reason)
    return StackedModule(
        way="turns" if turns else "vmap" if run is None else "stacked",
        why=why,
        parameters=_parameters(module),
        buffers={name: value.detach().clone() for name, value in module.named_buffers()},
        live={
            f"{path}.{name}" if path else name: float(getattr(part, name))
            for path, part in module.named_modules()
            for name in _live(part)
        },
        _names=names,
        _run=_Plain(module, why, turns) if turns or run is None else run,
    )


def _live(module: nn.Module) -> tuple[str, ...]:
    layer = LAYERS.get(type(module))
    return (
        ()
        if layer is None or layer.refuses(module)
        else tuple(name for name in layer.live if getattr(module, name) is not None)
    )


def _names(module: nn.Module) -> dict[str, str]:
    """Every full name of a parameter or buffer -> the first name of that tensor: shared ones have several."""
    found: dict[str, str] = {}
    for every in (module.named_parameters, module.named_buffers):
        first = {id(value): name for name, value in every()}
        found |= {name: first[id(value)] for name, value in every(remove_duplicate=False)}
    return found


# --- three ways to run


@dataclass(frozen=True)
class _Stacked:
    steps: Mapping[bool, Steps]

    def __call__(self, call: Call, inputs: Sequence[Any]) -> Any:
        return self.steps[call.training](call, inputs)


#: Held while a module runs as it is: its weights are put into it, and what torch is set to is so for all threads.
_RUNNING = threading.RLock()


class _Plain:
    """The template as it is: under vmap, or for one member after the other. One thread of a process at a time.

    Layers with live values, random draws or buffers of their own (those with `live` in their entry) run by their
    entry, as a stack of one: torch's own draw from a global generator and know one momentum for all.
    """

    def __init__(self, module: nn.Module, why: str, turns: bool) -> None:
        self._module = module
        self._why = why
        self._run_all = self._in_turns if turns else self._under_vmap
        self._call: Call | None = None
        for path, part in module.named_modules():
            layer = LAYERS.get(type(part))
            if layer is not None and layer.live and not layer.refuses(part):
                part.forward = self._bridge(path, part)

    def __call__(self, call: Call, inputs: Sequence[Any]) -> Any:
        with _RUNNING:
            return self._run(call, inputs)

    def _run(self, call: Call, inputs: Sequence[Any]) -> Any:
        draws = call.draws
        clocks = None if draws is None else (draws.seed, draws.consumed)
        part = 0 if draws is None else draws.part
        self._module.train(call.training)

        def member(
            params: dict[str, Tensor],
            buffers: dict[str, Tensor],
            live: dict[str, Tensor],
            clocks: tuple[Tensor, Tensor] | None,
            inputs: tuple[Any, ...],
        ) -> tuple[Any, dict[str, Tensor]]:
            own = {name: value.clone() for name, value in buffers.items()}  # some layers write into them
            alone = Call(
                {name: value[None] for name, value in params.items()},
                {name: value[None] for name, value in own.items()},
                {name: value[None] for name, value in live.items()},
                call.names,
                None if clocks is None else Draws(clocks[0][None], clocks[1][None], part),
                call.training,
            )
            self._call = alone
            given, state = dict(alone.buffers), {**params, **own}
            value = functional_call(self._module, state, inputs)  # puts what was assigned into `state`
            by_entry = {name: kept[0] for name, kept in alone.buffers.items() if kept is not given[name]}
            return value, {name: by_entry.get(name, state[name]) for name in own}

        batched = (dict(call.params), dict(call.buffers), dict(call.live), clocks, tuple(inputs))
        try:
            output, buffers = self._run_all(member, batched, draws)
        finally:
            self._call = None
        call.buffers.update(buffers)
        return output

    def _under_vmap(self, member: Callable[..., Any], batched: tuple[Any, ...], draws: Draws | None) -> Any:
        of_inputs = tuple(0 if isinstance(value, Tensor) else None for value in batched[-1])
        dims = (0, 0, 0, None if draws is None else 0, of_inputs)
        try:
            # The fused attention kernels have no batching rule; the plain one is made of operations that have.
            with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
                return torch.vmap(member, in_dims=dims, randomness="error")(*batched)
        except RuntimeError as error:
            if "vmap" not in str(error) and "atching rule" not in str(error):
                raise
            reason = str(error).partition("\n")[0]
            if "randomness" in reason:
                reason = "it draws from torch's generator; draw by nn.Dropout modules only, others set to 0"
            raise TrainableError(f"{self._why}, and torch.vmap cannot run it: {reason}") from error

    def _in_turns(self, member: Callable[..., Any], batched: tuple[Any, ...], draws: Draws | None) -> Any:
        seeds = [0] * len(next(iter(batched[0].values()))) if draws is None else draws.key(_TURNS).tolist()
        found = []
        for slot, seed in enumerate(seeds):
            own = tree_map(lambda value: value[slot] if isinstance(value, Tensor) else value, batched)  # noqa: B023
            with seeded(seed % 2**63):
                found.append(member(*own))
        return tree_map(lambda *values: torch.stack(values) if isinstance(values[0], Tensor) else values[0], *found)

    def _bridge(self, path: str, module: nn.Module) -> Any:
        run = LAYERS[type(module)].run

        def forward(x: Tensor) -> Tensor:
            assert self._call is not None
            return run(module, At(self._call, path), x[None])[0]

        return forward


# --- what parameters start from


def _parameters(module: nn.Module) -> dict[str, Parameter]:
    """By name, in the module's order: registered layers by their entries, others by their own reset, or as they are."""
    first = {id(value): name for name, value in module.named_parameters()}
    found = {name: _constant(value) for name, value in module.named_parameters()}
    drawn: set[str] = set()
    for part in module.modules():
        layer = LAYERS.get(type(part))
        if layer is not None:
            own = layer.initial(part)
        elif _reset(part) is not None:
            own = {name: _by_reset(part, name) for name, _ in part.named_parameters()}
        else:
            continue
        for name, parameter in own.items():
            full = first[id(part.get_parameter(name))]
            # Outer modules come first, and what they reset is theirs: as in torch, where they reset last.
            if full not in drawn:
                found[full] = parameter
                drawn.add(full)
    return found


def _reset(module: nn.Module) -> Any:
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)


def _constant(value: Tensor) -> Parameter:
    kept, shape = value.detach().clone(), tuple(value.shape)
    return Parameter(shape=shape, draw=lambda key: kept.clone(), decay=_is_matrix(shape))


def _by_reset(module: nn.Module, name: str) -> Parameter:
    """Drawn as the module's own reset does it after its children's, from torch's generator seeded by the key."""
    shape = tuple(module.get_parameter(name).shape)

    def draw(key: Tensor) -> Tensor:
        fresh = copy.deepcopy(module)
        generator = torch.default_generator
        before = generator.get_state()
        try:
            generator.manual_seed(int(key))
            fresh.apply(lambda part: reset() if (reset := _reset(part)) is not None else None)
        finally:
            generator.set_state(before)
        return fresh.get_parameter(name).detach()

    return Parameter(shape=shape, draw=draw, decay=_is_matrix(shape))


def _is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether weight decay acts, where no entry says: on what multiplies, not on gains and shifts however shaped."""
    return sum(size > 1 for size in shape) >= 2
