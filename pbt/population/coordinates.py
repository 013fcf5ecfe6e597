"""Hyperparameters as a bandit sees them: numbers in the unit cube, and categories.

Categories are the unordered choices. All else is a number: ordered choices and whole numbers as the middle of a bin,
proportions as the sticks they are broken from (`Space.encode`). What is inactive is 0.5, or category -1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from pbt.member import Hparams
from searchspaces import Choice, Space
from searchspaces.domains import Domain

#: Numbers are kept to so many digits. On another processor a model is fitted a little differently in the last bits,
#: and a sweep that is resumed there is to decide what it decided before.
_DIGITS = 3


class Coordinates:
    """Takes points of a space to numbers and categories, and back.

    Attributes:
        choices: Names of the categories.
        options: How many each has.
        num_numbers: Columns of numbers.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self.choices = tuple(name for name, domain in space.items() if _is_categorical(domain))
        self.options = tuple(len(_codes(space[name])) for name in self.choices)
        #: To which hyperparameter each column of the space belongs.
        self._owners = [name for name, domain in space.items() for _ in range(domain.num_dims)]
        self._is_number = np.array([not _is_unordered(space[name]) for name in self._owners], dtype=bool)
        self._number_owners = [name for name in self._owners if not _is_unordered(space[name])]
        self.num_numbers = len(self._number_owners)

    def numbers(self, hparams: Hparams) -> np.ndarray:
        """The numbers of a point, `(num_numbers,)`."""
        return self._space.encode(hparams)[self._is_number]

    def categories(self, hparams: Hparams) -> list[int]:
        """The index of each category's option; -1 where it is inactive."""
        return [_index(self._space[name], hparams[name]) if name in hparams else -1 for name in self.choices]

    def point(self, numbers: np.ndarray, categories: Sequence[int], bound: np.ndarray | None = None) -> Hparams:
        """The point with these; what they say of inactive hyperparameters does not matter.

        Args:
            numbers: Kept to a few digits.
            categories: An option of each.
            bound: Which numbers are kept as they are, as they are some point's; None is none of them.
        """
        columns = np.full(len(self._owners), 0.5)
        rounded = np.round(numbers, _DIGITS)
        columns[self._is_number] = rounded if bound is None else np.where(bound, numbers, rounded)
        of = dict(zip(self.choices, categories, strict=True))
        for name in self.choices:
            columns[[it == name for it in self._owners]] = _codes(self._space[name])[max(of[name], 0)]
        return self._space.decode(columns)

    def bound(self, categories: Sequence[int], hparams: Hparams, names: Collection[str]) -> list[int]:
        """The categories, but as a point has them where they have one of these names."""
        known = self.categories(hparams)
        both = zip(self.choices, categories, known, strict=True)
        return [own if name in names else drawn for name, drawn, own in both]

    def columns(self, names: Collection[str]) -> np.ndarray:
        """Which numbers are of hyperparameters with these names."""
        return np.array([name in names for name in self._number_owners], dtype=bool)

    def free(self, categories: Sequence[int]) -> np.ndarray:
        """Which numbers are to be chosen, given the categories: those that are not switched off by them."""
        of = dict(zip(self.choices, categories, strict=True))
        return np.array([self._may_be_active(name, of) for name in self._number_owners], dtype=bool)

    def _may_be_active(self, name: str, categories: dict[str, int]) -> bool:
        for parent, allowed in (self._space[name].when or {}).items():
            if not self._may_be_active(parent, categories):
                return False
            values = allowed if isinstance(allowed, tuple) else (allowed,)
            if parent in categories and categories[parent] not in [_index(self._space[parent], it) for it in values]:
                return False
        return True


def _is_unordered(domain: Domain) -> bool:
    return isinstance(domain, Choice) and not domain.ordered


def _is_categorical(domain: Domain) -> bool:
    return _is_unordered(domain) and len(_codes(domain)) > 1


def _codes(domain: Domain) -> list[list[float]]:
    """The columns of every option."""
    assert isinstance(domain, Choice)
    return [domain.encode(option) for option in domain.options]


def _index(domain: Domain, value: object) -> int:
    return _codes(domain).index(domain.encode(value))  # type: ignore[arg-type]
