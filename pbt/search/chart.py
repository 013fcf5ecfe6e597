"""Where models see configurations: as in the unit cube, but for mixtures.

A mixture's place is the square roots of its shares, a number for each part. They lie on a sphere, on which distances
are Hellinger's: from one to two percent of a part is as far as from four to six. A model of them ranks mixtures far
better than one of the shares, or of the places in the unit cube, which depend on the order of the parts.
Whatever place is proposed is brought back to the sphere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pbt.member import Hparams
from searchspaces import Simplex, Space
from searchspaces.domains import Domain
from searchspaces.space import NEUTRAL


@dataclass(frozen=True)
class Chart:
    """A space as models see it.

    Attributes:
        space: What may vary.
        given: Values that all places have, where they are active.
    """

    space: Space
    given: Hparams = field(default_factory=dict)

    def encode(self, hparams: Hparams) -> np.ndarray:
        """A configuration's place, `(numbers,)`, each from 0 to 1."""
        self.space.check(hparams)
        columns: list[float] = []
        for name, domain in self.space.items():
            columns += _encoded(domain, hparams[name]) if name in hparams else [NEUTRAL] * _width(domain)
        return np.array(columns)

    def columns(self, names: Collection[str]) -> np.ndarray:
        """Which numbers of a place are these hyperparameters', `(numbers,)` of bool."""
        return np.concatenate([np.full(_width(domain), name in names) for name, domain in self.space.items()])

    def decode(self, place: np.ndarray) -> dict[str, Any]:
        """The configuration that is nearest to a place, `(numbers,)`."""
        rest = iter(np.clip(place, 0.0, 1.0).tolist())
        values = {name: _decoded(it, [next(rest) for _ in range(_width(it))]) for name, it in self.space.items()}
        return self.space.point({**values, **self.given})

    def sample(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Places of configurations that are drawn from the space, `(number, numbers)`."""
        return np.array([self.encode(self.space.sample(rng, self.given)) for _ in range(number)])

    def snapped(self, places: np.ndarray) -> np.ndarray:
        """Places, each moved to the nearest that can be had."""
        return np.array([self.encode(self.decode(place)) for place in places]).reshape(places.shape)


def _width(domain: Domain) -> int:
    return len(domain.parts) if isinstance(domain, Simplex) else domain.num_dims


def _encoded(domain: Domain, value: Any) -> list[float]:
    if isinstance(domain, Simplex):
        return [float(value[part]) ** 0.5 for part in domain.parts]
    return domain.encode(value)


def _decoded(domain: Domain, columns: list[float]) -> Any:
    return _shares(domain, columns) if isinstance(domain, Simplex) else domain.decode(columns)


def _shares(domain: Simplex, roots: list[float]) -> Mapping[str, float]:
    squares = np.square(roots)
    total = float(squares.sum())
    shares = squares / total if total > 0 else np.full(len(roots), 1.0 / len(roots))
    return dict(zip(domain.parts, shares.tolist(), strict=True))
