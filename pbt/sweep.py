"""A sweep, from its description to its result: the Python door, and what the command line calls."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import searchspaces
import trainables
from pbt.config import read_sweep
from pbt.earlier import Setting, expanded
from pbt.errors import SpecError, nearest
from pbt.launch import (
    Job,
    Resolved,
    check_budget,
    describe_run,
    find_place,
    launch,
    load_space,
    make_task,
    started,
    with_stacks,
)
from pbt.record.result import Result
from pbt.record.runs import make_run, prepare_storage
from pbt.report.watch import check_tracking
from pbt.spec import Budget, Checkpoints, Component, Hosts, Objective, SweepSpec, Tracking, is_number, require, to_dict
from pbt.strategy import SearchStrategy, StrategyOptions, Task
from searchspaces import Choice, Int, Simplex, Space
from searchspaces.domains import Domain
from trainables import Capabilities, HparamSpec, Trainable
from trainables.buckets import Buckets, options_of, with_buckets
from trainables.core.step import warn_if_not_compiled
from trainables.registry import REGISTERED

T = TypeVar("T")

#: Ready strategies by the name a sweep file uses.
STRATEGIES: Mapping[str, str] = {
    "pbt": "pbt.population:PBT",
    "mf_pb2": "pbt.population:MFPB2",
    "mf_pbt": "pbt.population:MFPBT",
    "pb2": "pbt.population:PB2",
    "ipbt": "pbt.population:IPBT",
    "fixed": "pbt.population:Fixed",
    "halving": "pbt.population:Halving",
    "replay": "pbt.population:Replay",
    "freeze_thaw": "pbt.search:FreezeThaw",
    "asha": "pbt.search:ASHA",
    "mf_mes": "pbt.search:MFMES",
    "rung_ensemble": "pbt.search:RungEnsemble",
    "median_rule": "pbt.search:MedianRule",
    "random_search": "pbt.search:RandomSearch",
    "optuna": "pbt.search:OptunaSearch",
}


#: Of so many values it is looked whether the trainable takes each.
_MANY = 64


class Sweep:
    """A population, ready to be trained.

    Args:
        trainable: What is trained: a registered name (`language`), `module.path:Class`, a `Trainable`, or
            `{"name": ..., "options": ...}`.
        space: What may vary: a `Space`, the name of a ready one, or `{name: Float(...)}`.
        objective: The metric that decides, or an `Objective`.
        budget: A `Budget`, or `{"members": ..., "generations": ..., "steps": ...}`.
        strategy: `default`, the name of another (`STRATEGIES`), or a strategy's options such as `PBT(burn_in=2)`.
        seed: The only source of randomness.
        name: Run folders begin with it.
        hosts: Where members train; `Hosts(kind="local")` does without Ray.
        storage: Folder that holds the runs.
        tracking: The MLflow mirror; False leaves MLflow alone.
        checkpoints: When members are saved.
        archive: Folder or address below which sealed parts of ledgers are kept; None keeps them with the run.

    Raises:
        SpecError: The sweep cannot be run as described.
        SpaceError: The space is impossible.
        TrainableError: The trainable cannot be built, or its data not read.
    """

    def __init__(
        self,
        *,
        trainable: str | Component | Trainable | Mapping[str, Any],
        space: str | Space | Mapping[str, Any],
        objective: str | Objective | Mapping[str, Any],
        budget: Budget | Mapping[str, Any],
        strategy: str | Component | StrategyOptions | Mapping[str, Any] = "default",
        seed: int = 0,
        name: str = "sweep",
        hosts: Hosts | Mapping[str, Any] | None = None,
        storage: str | Path = "pbt-runs",
        tracking: Tracking | bool | Mapping[str, Any] = True,
        checkpoints: Checkpoints | Mapping[str, Any] | None = None,
        archive: str | None = None,
    ) -> None:
        own_trainable = None if isinstance(trainable, str | Component | Mapping) else trainable
        own_strategy = None if isinstance(strategy, str | Component | Mapping) else strategy
        self.spec = SweepSpec(
            trainable=_component("trainable", trainable),
            space=space_data(space),
            objective=_part(Objective, "objective", {"metric": objective} if isinstance(objective, str) else objective),
            budget=_part(Budget, "budget", budget),
            strategy=_component("strategy", strategy),
            seed=seed,
            name=name,
            hosts=_part(Hosts, "hosts", hosts or {}),
            storage=str(storage),
            tracking=_part(Tracking, "tracking", {"enabled": tracking} if isinstance(tracking, bool) else tracking),
            checkpoints=_part(Checkpoints, "checkpoints", checkpoints or {}),
            archive=archive,
        )
        self.resolved = _resolve(self.spec, own_trainable, own_strategy)
        self.spec = _with_known(self.spec, self.resolved.strategy)
        _check_recordable(self.spec)

    @classmethod
    def from_spec(
        cls, spec: SweepSpec, trainable: Trainable | None = None, strategy: StrategyOptions | None = None
    ) -> Sweep:
        """The sweep a spec describes, with its trainable and strategy at hand or found by their names."""
        fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
        return cls(**{**fields, "trainable": trainable or spec.trainable, "strategy": strategy or spec.strategy})

    @classmethod
    def from_file(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Sweep:
        """The sweep a file describes; `overrides` replaces values by dotted key."""
        return cls.from_spec(read_sweep(Path(path), overrides))

    def run(
        self, *, progress: bool = True, baseline: Result | None = None, imports: str | Path | None = None
    ) -> Result:
        """Train the population to its end.

        Ctrl-C (or `pbt.stop`) lets the segments under way come to their end, saves every member and stops; a second
        Ctrl-C stops at once. `pbt.resume` goes on either way.

        Args:
            progress: Show a live table, or plain lines where there is no terminal.
            baseline: A finished run of the baseline, drawn beside this one in the plots.
            imports: Folder of the modules the sweep names, for `pbt resume` to find them again.

        Returns:
            What was found; all of it is in the run's folder as well.

        Raises:
            StorageError: The storage folder cannot be written.
            HostError: A host could not carry out its orders; what was recorded before is kept.
            KeyboardInterrupt: It was stopped; what was recorded before is kept.
        """
        storage = prepare_storage(Path(self.spec.storage))
        with started(self.spec.hosts, storage):
            place = find_place(self.spec.hosts)
            warn_if_not_compiled(place)
            spec = with_stacks(self.spec, place, self.resolved.capabilities.max_capacity)
            check_budget(spec.budget, self.resolved.capabilities, self.resolved.space, place)
            info = describe_run(spec, self.resolved, place) | {"imports": str(imports) if imports else None}
            run = make_run(storage, spec.name, info)
            launch(Job(run, spec, self.resolved, place), progress=progress, baseline=baseline)
        return Result(run)


def _resolve(spec: SweepSpec, trainable: Trainable | None, strategy: StrategyOptions | None) -> Resolved:
    space = load_space(spec.space)
    plain = trainable or trainables.load(spec.trainable.name, spec.trainable.options)
    strategy = strategy or load_strategy(spec.strategy)
    trainable = with_buckets(plain, space)
    capabilities = trainable.describe()
    _check_space(space, capabilities, options_of(plain))
    _check_buckets(space, trainable)
    _check_objective(spec.objective, capabilities)
    _check_hosts(spec.hosts)
    if spec.tracking.enabled:
        check_tracking(spec.tracking)
    if check := getattr(strategy, "check", None):
        check(spec.budget)
    task = make_task(capabilities, spec)
    strategy = _with_earlier(strategy, spec, task, capabilities)
    if check := getattr(strategy, "check_task", None):
        check(task)
    _check_initial(strategy, task)
    return Resolved(trainable, capabilities, space, strategy, task)


def _with_earlier(
    strategy: StrategyOptions, spec: SweepSpec, task: Task, capabilities: Capabilities
) -> StrategyOptions:
    """With runs in place of the sources that a search is to know of."""
    if not getattr(strategy, "earlier", ()):
        return strategy
    fixed = {name: known.default for name, known in capabilities.hparams.items() if name not in task.space}
    objective = dataclasses.replace(spec.objective, mode=task.mode)
    setting = Setting(space=task.space, objective=objective, fixed=fixed, storage=Path(spec.storage))
    return dataclasses.replace(strategy, earlier=expanded(strategy.earlier, setting))  # type: ignore[type-var, attr-defined]


def _with_known(spec: SweepSpec, strategy: StrategyOptions) -> SweepSpec:
    """With what a search was told: who resumes does not look there again."""
    if not getattr(strategy, "earlier", ()):
        return spec
    options = {**spec.strategy.options, "earlier": strategy.earlier}  # type: ignore[attr-defined]
    return dataclasses.replace(spec, strategy=dataclasses.replace(spec.strategy, options=options))


def _check_initial(strategy: StrategyOptions, task: Task) -> None:
    field, initial = "strategy.options.initial", getattr(strategy, "initial", ())
    is_list = isinstance(initial, list | tuple)
    require(is_list, field, f"{initial!r} is no list", "Write a list of configurations: [{lr: 0.001}]")
    for index, hparams in enumerate(initial):
        try:
            task.space.check(hparams)
        except searchspaces.SpaceError as error:
            raise SpecError(f"{field}[{index}]", "is not in the space", str(error)) from error
    most, room = task.budget.members, f"{task.budget.members} members"
    if isinstance(begun := strategy.begin(task), SearchStrategy):
        most = begun.most_initial
        room = f"a budget in which {most} can begin"
    told = f"names {len(initial)} configurations for {room}"
    require(len(initial) <= most, field, told, "Raise budget.members, or name fewer")


def _check_buckets(space: Space, trainable: Trainable) -> None:
    """Refuse what decides a bucket of which the trainable has none, or one whose members cannot be compared."""
    if not isinstance(trainable, Buckets):
        return
    for name in trainable.deciding(space):
        domain = space[name]
        for value in _values(domain) or [getattr(domain, it, "") for it in ("low", "high")]:
            try:
                trainable.check({name: value})
            except trainables.TrainableError as error:
                raise SpecError(f"space.{name}", f"reaches {value!r}", str(error)) from error


def _values(domain: Domain) -> Sequence[Any] | None:
    """All that a domain holds; None if that is too much to go through."""
    if isinstance(domain, Choice):
        return domain.options
    whole = range(domain.low, domain.high + 1, domain.step) if isinstance(domain, Int) else range(0)
    return whole if 0 < len(whole) <= _MANY else None


def _check_space(space: Space, capabilities: Capabilities, options: Sequence[str]) -> None:
    for name, domain in space.items():
        if name not in capabilities.hparams:
            mend = nearest(name, [*capabilities.hparams, *options])
            raise SpecError(f"space.{name}", "is no hyperparameter of the trainable, and no option of it", mend)
        known = capabilities.hparams[name]
        if known.kind == "structural":
            _check_structural(space, name, capabilities)
        _check_domain(f"space.{name}", domain, known)


def _check_structural(space: Space, name: str, capabilities: Capabilities) -> None:
    """Refuse what would be another value for every member, or would change while weights stay."""
    told = "is structural: members with other values need models of their own"
    is_few = _values(space[name]) is not None
    require(is_few, f"space.{name}", told, f"Write a choice, or whole numbers, of {_MANY} values at most")
    for parent in space[name].when or {}:
        told = f"is structural, but depends on {parent}, which is {capabilities.hparams[parent].kind}"
        is_fixed = capabilities.hparams[parent].kind == "structural"
        require(is_fixed, f"space.{name}.when", told, "Leave `when` out")


def _check_domain(field: str, domain: Domain, known: HparamSpec) -> None:
    """Refuse values that the trainable would refuse in the middle of the sweep."""
    if known.parts:
        parts = ", ".join(known.parts)
        fits = isinstance(domain, Simplex) and set(domain.parts) == set(known.parts)
        mend = f"Write {{type: simplex, parts: [{parts}]}}"
        require(fits, field, f"is {domain}, but the trainable needs weights of {parts}", mend)
        return
    if isinstance(domain, Simplex) or not isinstance(known.default, int | float):
        fits = isinstance(domain, Choice) and all(isinstance(option, type(known.default)) for option in domain.options)
        mend = f"Write a domain of values like {known.default!r}"
        require(fits, field, f"has values of another kind than the trainable's {known.default!r}", mend)
        return
    values = list(domain.options) if isinstance(domain, Choice) else [domain.low, domain.high]
    low = -math.inf if known.low is None else known.low
    high = math.inf if known.high is None else known.high
    for value in values:
        if not is_number(value):
            raise SpecError(field, f"{value!r} is not a number, which the trainable needs", "Write numbers")
        told = f"reaches {value}, outside what the trainable allows"
        require(low <= value, field, told, f"Stay at {low:g} or above")
        require(value <= high, field, told, f"Stay at {high:g} or below")
    whole = isinstance(known.default, int) and not isinstance(known.default, bool)
    fits = not whole or all(isinstance(value, int) for value in values)
    require(fits, field, "is a whole number to the trainable", "Write type: int")


def _check_hosts(hosts: Hosts) -> None:
    import torch

    device = hosts.device
    known = ("auto", "cpu", "cuda")
    try:
        kind = "auto" if device == "auto" else torch.device(device).type
    except RuntimeError:
        kind = ""
    require(kind in known, "hosts.device", f"{device!r} is unknown", nearest(device, known))
    indexed = hosts.kind == "ray" and ":" in device
    require(not indexed, "hosts.device", f"{device!r} names one device, but Ray gives each host its own", "Write cuda")
    remote = (hosts.address or "").startswith("ray://")
    mend = "Run `pbt run` on a node of the cluster, with --address auto"
    require(not remote, "hosts.address", "a Ray client's ledger would lie where the client cannot read it", mend)


def _check_objective(objective: Objective, capabilities: Capabilities) -> None:
    require(
        objective.metric in capabilities.metrics,
        "objective.metric",
        f"{objective.metric!r} is not reported by the trainable",
        nearest(objective.metric, capabilities.metrics),
    )
    require(
        objective.split in capabilities.splits,
        "objective.split",
        f"{objective.split!r} is none of the trainable's splits",
        nearest(objective.split, capabilities.splits),
    )


def load_strategy(component: Component) -> StrategyOptions:
    """The options of a strategy, by its name.

    Raises:
        SpecError: There is none of this name, or an option is unknown or bad.
    """
    module, _, attribute = STRATEGIES.get(component.name, component.name).partition(":")
    known = nearest(component.name, STRATEGIES)
    require(bool(attribute), "strategy.name", f"{component.name!r} is unknown", known)
    try:
        options = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError("strategy.name", f"{component.name!r} cannot be imported ({error})", known) from error
    is_options = dataclasses.is_dataclass(options) and hasattr(options, "begin")
    require(is_options, "strategy.name", f"{component.name!r} is no strategy", "Name a dataclass with begin(task)")
    names = [field.name for field in dataclasses.fields(options)]
    for name in component.options:
        require(name in names, f"strategy.options.{name}", "is not a known option", nearest(name, names))
    try:
        made: StrategyOptions = options(**component.options)
    except TypeError as error:
        raise SpecError("strategy.options", f"do not fit: {error}", "See the strategy's documentation") from error
    return made


def _part(kind: type[T], where: str, given: T | Mapping[str, Any]) -> T:
    """A part of a spec, itself or as a mapping of its fields.

    Raises:
        SpecError: A field is unknown or missing, or it is something else altogether.
    """
    if isinstance(given, kind):
        return given
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if not isinstance(given, Mapping):
        mend = f"Write a pbt.{kind.__name__}, or a mapping with {', '.join(fields)}"
        raise SpecError(where, f"{given!r} is no {kind.__name__}", mend)
    for name in given:
        require(name in fields, f"{where}.{name}", "is not a known key", nearest(str(name), fields))
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        require(optional or name in given, f"{where}.{name}", "is missing", f"Add {name!r}")
    return kind(**given)


def _check_recordable(spec: SweepSpec) -> None:
    """A sweep is recorded with its run; what cannot be written as JSON could not be repeated."""
    try:
        json.dumps(to_dict(spec))
    except TypeError as error:
        mend = "Give options that are numbers, text, lists or mappings"
        raise SpecError("sweep", f"cannot be recorded ({error})", mend) from error


def _component(where: str, chosen: Any) -> Component:
    """A trainable or strategy as it is written in a spec: its name, and the options that are not defaults."""
    if isinstance(chosen, Mapping):
        return _part(Component, where, chosen)
    if isinstance(chosen, Component):
        return chosen
    if isinstance(chosen, str):
        return Component(name=chosen)
    kind = type(chosen)
    options = {}
    for field in dataclasses.fields(chosen) if dataclasses.is_dataclass(chosen) else ():
        value = getattr(chosen, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if value != default:
            options[field.name] = value
    registered = {path: name for name, path in {**STRATEGIES, **REGISTERED}.items()}
    path = f"{kind.__module__}:{kind.__qualname__}"
    public = f"{kind.__module__.rpartition('.')[0]}:{kind.__qualname__}"
    return Component(name=registered.get(path) or registered.get(public) or path, options=options)


def check_wider(old: Space, new: Space) -> None:
    """Refuse a space that does not hold every point of the old one.

    Raises:
        SpecError: It does not.
    """
    for name in {**old, **new}:
        require(name in new, f"space.{name}", "is missing, but members have it", "Leave it in the space")
        require(name in old, f"space.{name}", "is new, but no member has it", "Leave it out, or begin a new run")
        wider = _is_wider(old[name], new[name])
        mend = "Write the old domain with wider bounds or more options"
        require(wider, f"space.{name}", f"{new[name]} does not hold every value of {old[name]}", mend)


def _is_wider(old: Domain, new: Domain) -> bool:
    if old == new:
        return True
    if type(old) is not type(new) or old.when != new.when:
        return False
    if isinstance(old, Choice) and isinstance(new, Choice):
        return set(old.options) <= set(new.options) and old.ordered == new.ordered
    if isinstance(old, Simplex) or isinstance(new, Simplex) or isinstance(old, Choice) or isinstance(new, Choice):
        return False
    bounds: dict[str, Any] = {"low": old.low, "high": old.high}
    same = dataclasses.replace(new, **bounds) == old
    return same and new.low <= old.low and old.high <= new.high


def space_data(space: str | Space | Mapping[str, Any]) -> str | Mapping[str, Any]:
    """A space as it is written in a spec."""
    if isinstance(space, str):
        return space
    if isinstance(space, Space):
        return space.to_json()
    if all(isinstance(domain, Mapping) for domain in space.values()):
        return space
    return Space(space).to_json()
