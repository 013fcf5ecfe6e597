"""Spaces: which hyperparameters may vary, and together how they are drawn, moved, coded and named."""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from searchspaces import _checks
from searchspaces.domains import Choice, Domain, Float, Int, Simplex
from searchspaces.errors import SpaceError, suggest

Hparams: TypeAlias = Mapping[str, Any]

# What an inactive hyperparameter's columns hold: the middle, as far from every value as can be.
NEUTRAL = 0.5

_TYPES: dict[str, type[Domain]] = {"float": Float, "int": Int, "choice": Choice, "simplex": Simplex}
_NAMES = {kind: name for name, kind in _TYPES.items()}


@dataclass(frozen=True, eq=False)
class Space(Mapping[str, Domain]):
    """An ordered, immutable mapping from hyperparameter names to domains.

    The order is part of the space: columns and random draws follow it, so spaces are equal (and hash alike) only in the
    same order. Points of a space (`hparams`) are dicts of plain Python values, one for each *active* hyperparameter, in
    the order of the space. A hyperparameter with `when` is active where each parent it names is active and has one of
    the values given; parents are `Choice` or `Int`, declared before or after.

    Args:
        domains: A domain for every hyperparameter; names are made of letters, digits, `_`, `.`, `-` and `/`.

    Raises:
        SpaceError: A name or domain is unusable, or a `when` names no parent, a value that the parent cannot have, or
            its own descendant.
    """

    domains: Mapping[str, Domain]

    def __post_init__(self) -> None:
        object.__setattr__(self, "domains", MappingProxyType(dict(self.domains)))
        for name, domain in self.domains.items():
            _check_name(name)
            if not isinstance(domain, Domain):
                raise SpaceError(f"{name}={domain!r} is not a domain: use Float, Int, Choice or Simplex")
        for name, conditions in self._conditions.items():
            self._check_parents(name, conditions)
        self._check_acyclic()

    def __getitem__(self, name: str) -> Domain:
        return self.domains[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.domains)

    def __len__(self) -> int:
        return len(self.domains)

    def __repr__(self) -> str:
        return f"Space({dict(self.domains)!r})"

    def __eq__(self, other: object) -> bool:
        return self.hash == other.hash if isinstance(other, Space) else NotImplemented

    def __hash__(self) -> int:
        return int(self.hash[:15], 16)

    def __reduce__(self) -> tuple[type["Space"], tuple[dict[str, Domain]]]:
        return Space, (dict(self.domains),)

    # Points

    def sample(self, rng: np.random.Generator, given: Hparams | None = None) -> dict[str, Any]:
        """Draws a point from the prior.

        Every hyperparameter is drawn in the order of the space, active or not, so its value does not depend on the
        others'. Without a `Simplex` of concentration other than 1, this is `decode(rng.random(num_dims))`.

        Args:
            rng: Source of the draws.
            given: Values that are to be these where they are active, and are not drawn.

        Raises:
            SpaceError: One of these is outside its domain.
        """
        hparams = self._only_active({name: domain.sample(rng) for name, domain in self.items()} | dict(given or {}))
        if given:
            self.check(hparams)
        return hparams

    def contains(self, hparams: Hparams) -> bool:
        """Is this a point of the space (`check` says why not)."""
        return self._fault(hparams) is None

    def check(self, hparams: Hparams) -> None:
        """Refuses what is not a point of the space.

        Raises:
            SpaceError: A name is unknown, an active hyperparameter is missing or outside its domain, or an inactive one
                is present.
        """
        fault = self._fault(hparams)
        if fault is not None:
            raise SpaceError(fault)

    def point(self, values: Hparams) -> dict[str, Any]:
        """Returns the point among values that may name more: other hyperparameters, and those that are not active.

        Raises:
            SpaceError: One that is active is missing, or outside its domain.
        """
        hparams = self._only_active({name: values[name] for name in self if name in values})
        self.check(hparams)
        return hparams

    def perturb(
        self,
        hparams: Hparams,
        rng: np.random.Generator,
        factors: Sequence[float] = (0.8, 1.2),
        resample_probability: float = 0.25,
        keep: Collection[str] = (),
    ) -> dict[str, Any]:
        """Returns a neighbour of a point: PBT's explore step.

        Each hyperparameter by itself is drawn anew with `resample_probability`, and otherwise moved as its domain
        says: numbers are multiplied by one of `factors`. Where that switches a parent, children that become active are
        sampled and those that are no longer active are dropped.

        Args:
            hparams: A point of the space; it is not changed.
            rng: Source of the draws.
            factors: Positive multipliers, drawn with equal probability.
            resample_probability: Chance of a new draw, in [0, 1].
            keep: Names of hyperparameters that stay as they are.

        Raises:
            SpaceError: `hparams` is not in the space, or an argument is out of its range.

        Source: Jaderberg et al. 2017, Population Based Training, section 4.1.1.
        """
        self.check(hparams)
        _check_explore(factors, resample_probability)

        def move(name: str, domain: Domain) -> Any:
            if name in keep and name in hparams:
                return hparams[name]
            if name not in hparams or rng.random() < resample_probability:
                return domain.sample(rng)
            return domain.perturb(hparams[name], rng, factors)

        return self._only_active({name: move(name, domain) for name, domain in self.items()})

    # The unit cube

    @cached_property
    def num_dims(self) -> int:
        """Number of columns of the unit cube."""
        return len(self.dim_names)

    @cached_property
    def dim_names(self) -> tuple[str, ...]:
        """Name of each column: `lr`; `optimizer=sgd` of an unordered choice; `mix[web]` of a simplex."""
        return tuple(label for name, domain in self.items() for label in domain.labels(name))

    def encode(self, hparams: Hparams) -> np.ndarray:
        """Returns where a point lies in the unit cube, `(num_dims,)` float64; inactive columns are 0.5.

        Raises:
            SpaceError: `hparams` is not in the space.
        """
        self.check(hparams)
        columns: list[float] = []
        for name, domain in self.items():
            columns += domain.encode(hparams[name]) if name in hparams else [NEUTRAL] * domain.num_dims
        return np.array(columns, dtype=np.float64)

    def decode(self, u: np.ndarray | Sequence[float]) -> dict[str, Any]:
        """Returns the point at a place `(num_dims,)` in the unit cube; inactive columns do not matter.

        `decode(encode(hparams))` is `hparams`: exactly for `Int`, `Choice` and with a step, to 1e-12 otherwise. A
        uniform place gives the distribution of `sample` (of a `Simplex`: at concentration 1).

        Raises:
            SpaceError: `u` has another shape, or leaves the cube.
        """
        places = np.asarray(u, dtype=np.float64)
        if places.shape != (self.num_dims,):
            raise SpaceError(f"u has shape {places.shape}, not {(self.num_dims,)}: give one number per column")
        if not ((places >= 0) & (places <= 1)).all():
            raise SpaceError(f"u={places.tolist()} leaves the unit cube: clip it to [0, 1]")
        rest = iter(places.tolist())
        # Each domain takes its own columns off the front.
        values = {name: domain.decode([next(rest) for _ in range(domain.num_dims)]) for name, domain in self.items()}
        return self._only_active(values)

    # Identity

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Returns the space as plain dicts in its order: `{"lr": {"type": "float", "low": 0.1, ...}}`, no defaults.

        Keep the order of the names when storing it: it is part of the space.
        """
        return {name: _domain_to_json(domain) for name, domain in self.items()}

    @classmethod
    def from_json(cls, spec: Mapping[str, Mapping[str, Any]]) -> "Space":
        """Builds a space from what `to_json` returns, or from the same written by hand.

        Raises:
            SpaceError: A type or key is unknown, a key is missing, or a domain refuses its values.
        """
        if not isinstance(spec, Mapping):
            raise SpaceError(f"space={spec!r} is not a mapping: write {{name: {{type: float, low: 0, high: 1}}}}")
        return cls({name: _domain_from_json(name, entry) for name, entry in spec.items()})

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON, the same on any machine: equal hashes draw, move and encode alike."""
        canonical = [[name, _without_integral_floats(spec)] for name, spec in self.to_json().items()]
        text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    # Conditions

    @cached_property
    def _conditions(self) -> dict[str, dict[str, tuple[_checks.Scalar, ...]]]:
        """For each conditional hyperparameter, its parents and the values they may have."""
        found = {name: _checks.to_conditions(name, domain.when) for name, domain in self.items()}
        return {name: conditions for name, conditions in found.items() if conditions}

    @cached_property
    def _parents_first(self) -> tuple[str, ...]:
        graph = {name: tuple(self._conditions.get(name, ())) for name in self}
        return tuple(TopologicalSorter(graph).static_order())

    def _check_parents(self, name: str, conditions: Mapping[str, tuple[_checks.Scalar, ...]]) -> None:
        for parent, values in conditions.items():
            if parent not in self:
                raise SpaceError(f"{name}.when names {parent!r}, which is not in the space: {suggest(parent, self)}")
            domain = self[parent]
            if not isinstance(domain, Choice | Int):
                raise SpaceError(f"{name}.when names {parent!r}, which is {domain}: make it a Choice or an Int")
            for value in values:
                if not domain.contains(value):
                    raise SpaceError(f"{name}.when has {parent}={value!r}, which is not {domain}: {domain.mend(value)}")

    def _check_acyclic(self) -> None:
        try:
            _ = self._parents_first
        except CycleError as error:
            cycle = " -> ".join(error.args[1])
            raise SpaceError(f"the conditions go in a circle ({cycle}): drop one `when`") from None

    def _is_active(self, name: str, values: Hparams) -> bool:
        return all(
            parent in values
            and any(_checks.same(values[parent], value) for value in allowed)
            and self._is_active(parent, values)
            for parent, allowed in self._conditions.get(name, {}).items()
        )

    def _only_active(self, values: Hparams) -> dict[str, Any]:
        return {name: value for name, value in values.items() if self._is_active(name, values)}

    def _fault(self, hparams: Hparams) -> str | None:
        """Returns what keeps this from being a point of the space, with the mend; None if it is one."""
        if not isinstance(hparams, Mapping):
            return f"hparams={hparams!r} is not a mapping: write {{name: value}}"
        for name in hparams:
            if name not in self:
                return f"{name!r} is not a hyperparameter of the space: {suggest(name, self)}"
        # Parents first: a child is not blamed for its parent's fault.
        faults = (self._fault_of(name, hparams) for name in self._parents_first)
        return next((fault for fault in faults if fault is not None), None)

    def _fault_of(self, name: str, hparams: Hparams) -> str | None:
        domain = self[name]
        if not self._is_active(name, hparams):
            needs = " and ".join(map(_in_words, self._conditions[name].items()))
            return f"{name}={hparams[name]!r} is not active (needs {needs}): remove it" if name in hparams else None
        if name not in hparams:
            return f"{name} is missing: give {domain}"
        value = hparams[name]
        return None if domain.contains(value) else f"{name}={value!r} is not {domain}: {domain.mend(value)}"


def _in_words(condition: tuple[str, tuple[_checks.Scalar, ...]]) -> str:
    parent, values = condition
    return f"{parent}={' or '.join(map(repr, values))}"


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[\w./-]+", name):
        raise SpaceError(f"{name!r} cannot name a hyperparameter: use letters, digits, _, ., - and /")


def _check_explore(factors: Sequence[float], resample_probability: float) -> None:
    if not len(factors) or not all(_checks.is_real(factor) and factor > 0 for factor in factors):
        raise SpaceError(f"factors={factors!r} are not positive numbers: use (0.8, 1.2)")
    if not _checks.is_real(resample_probability) or not 0 <= resample_probability <= 1:
        raise SpaceError(f"resample_probability={resample_probability!r} is not in [0, 1]: use 0.25")


def _domain_to_json(domain: Domain) -> dict[str, Any]:
    changed = {f.name: getattr(domain, f.name) for f in fields(domain) if getattr(domain, f.name) != f.default}
    return {"type": _NAMES[type(domain)], **{name: _to_plain(value) for name, value in changed.items()}}


def _domain_from_json(name: object, entry: object) -> Domain:
    if not isinstance(entry, Mapping):
        raise SpaceError(f"{name}={entry!r} is not a mapping: write {{type: float, low: 0, high: 1}}")
    kind = _TYPES.get(str(entry.get("type")))
    if kind is None:
        raise SpaceError(f"{name}.type={entry.get('type')!r} is unknown: {suggest(entry.get('type'), _TYPES)}")
    arguments = {key: value for key, value in entry.items() if key != "type"}
    known = [f.name for f in fields(kind)]
    for key in arguments:
        if key not in known:
            raise SpaceError(f"{name}.{key} is not a key of {entry['type']!r}: {suggest(key, known)}")
    for f in fields(kind):
        if f.default is MISSING and f.name not in arguments:
            raise SpaceError(f"{name}.{f.name} is missing: add it to {dict(entry)!r}")
    try:
        return kind(**arguments)
    except SpaceError as error:
        raise SpaceError(f"{name}: {error}") from None


def _to_plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return {key: list(values) for key, values in value.items()}
    return value


def _without_integral_floats(value: Any) -> Any:
    """Returns the JSON with 1 for 1.0 throughout, so that both spellings hash alike."""
    if isinstance(value, Mapping):
        return {key: _without_integral_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_integral_floats(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
