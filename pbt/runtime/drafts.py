"""A work order being put together."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

from pbt.member import Hparams
from pbt.runtime.orders import Admit, Examine, Fetch, Publish, Renew, Train


@dataclass(slots=True)
class Draft:
    """By slot, so that a slot's part can be taken out again."""

    publish: dict[int, str] = field(default_factory=dict)
    copy: dict[int, int] = field(default_factory=dict)  # target: source
    fetch: dict[int, Fetch] = field(default_factory=dict)
    admit: dict[int, Admit] = field(default_factory=dict)
    renew: dict[int, Renew] = field(default_factory=dict)
    set: dict[int, Hparams] = field(default_factory=dict)
    train: dict[int, Train] = field(default_factory=dict)
    examine: dict[int, Examine] = field(default_factory=dict)

    def forget(self, slot: int) -> None:
        """Take out everything that is said of a slot, because it has been done."""
        for part in self._parts()[:-1]:
            part.pop(slot, None)

    def take_publish(self, tokens: Set[str]) -> Draft:
        """Take out what is to be published under these tokens, as a draft of its own."""
        taken = Draft(publish={slot: token for slot, token in self.publish.items() if token in tokens})
        for slot in taken.publish:
            del self.publish[slot]
        return taken

    def split(self, slots: Set[int]) -> tuple[Draft, Draft]:
        """What is to be published and what concerns these slots, to be done first; and the rest."""
        first, rest = Draft(publish=self.publish), Draft()
        for part, own, others in zip(self._parts()[1:], first._parts()[1:], rest._parts()[1:], strict=True):
            for slot, item in part.items():
                (own if slot in slots else others)[slot] = item
        return first, rest

    def joined(self, rest: Draft | None) -> Draft:
        """Together with what it was taken out of, or what has been asked of the stack since."""
        for part, more in zip(self._parts(), rest._parts() if rest else (), strict=False):
            part.update(more)
        return self

    def _parts(self) -> tuple[dict[int, Any], ...]:
        return self.publish, self.copy, self.fetch, self.admit, self.renew, self.set, self.train, self.examine

    @property
    def fetched(self) -> Set[str]:
        """Tokens of the states to be fetched."""
        return {item.token for item in self.fetch.values()}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not any(self._parts())

    def parts(self) -> dict[str, Any]:
        """As parts of a work order."""
        return {
            "publish": tuple(Publish(slot, token) for slot, token in self.publish.items()),
            "copy": tuple((source, target) for target, source in self.copy.items()),
            "fetch": tuple(self.fetch.values()),
            "admit": tuple(self.admit.values()),
            "renew": tuple(self.renew.values()),
            "set": tuple(self.set.items()),
            "train": tuple(self.train.values()),
            "examine": tuple(self.examine.values()),
        }
