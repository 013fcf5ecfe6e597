"""A training loop that belongs to somebody else, run a report at a time.

The loop has a thread of its own, which stands still at `resume` and at every `report` until it is told to go on. One
loop of a process trains at a time: all of them share Python's, NumPy's and torch's random numbers, and `sys.argv`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from trainables.base import Hparams
from trainables.core.generators import seeded
from trainables.errors import TrainableError, nearest
from trainables.own.kept import Content, Kept, Load, Save

#: Seconds that a loop gets to clean up after itself.
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a loop said of itself: metrics by name, and the step in its own count."""

    metrics: Mapping[str, float]
    step: int


class Ended(BaseException):
    """Raised in a loop that nobody needs any more; not an `Exception`, which loops may catch."""


class Loop:
    """One run of somebody's training function, for one member.

    Args:
        train: Has the loop; takes no arguments.
        hparams: The member's hyperparameters.
        given: What to go on from; None for a fresh member.
        step: Where that was, in the loop's own count.
        arguments: What it finds in `sys.argv` behind its name.
        device: What it trains on, a torch device string.

    Attributes:
        hparams: The member's hyperparameters.
        asked: Names of those that the loop has asked for.
        step: The last one it reported, or was given.
    """

    def __init__(
        self,
        train: Callable[[], Any],
        hparams: Hparams,
        given: Content | None = None,
        step: int = 0,
        arguments: Sequence[str] = (),
        device: str = "cpu",
    ) -> None:
        self.hparams, self.asked, self.step = dict(hparams), set[str](), step
        self._train, self._given, self._arguments, self._device = train, given, list(arguments), device
        self._kept: Kept | None = None
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._report: Report | None = None
        self._error: BaseException | None = None
        self._is_over = self._is_unwanted = False
        self._thread = threading.Thread(
            target=self._live, args=(torch.get_num_threads(),), name="training-loop", daemon=True
        )

    # ------------------------------------------------------------------------------------------ for who holds the loop

    def start(self, seed: int) -> None:
        """Run it up to `resume`.

        Raises:
            TrainableError: It did not get there.
        """
        self._turn(seed, self._thread.start)
        if self._kept is None:
            told = f"reported step {self._report.step}" if self._report else "ended"
            self.end()
            raise TrainableError(
                f"{_name(self._train)} {told} without calling resume(); call it between making the model and training, "
                "as in adapt.resume(model=model, optimizer=optimizer)"
            )

    def advance(self, seed: int) -> Report:
        """Let it train to its next report.

        Args:
            seed: Of what it draws on the way.

        Raises:
            TrainableError: It ended instead, or reported what cannot be.
        """
        if not self._is_over:
            self._report = None
            self._turn(seed, self._go.release)
        if self._report is None or self._is_over:
            raise TrainableError(
                f"{_name(self._train)} ended after step {self.step}, but the sweep trains on; let it train for longer "
                "(more epochs), or lower budget.generations or budget.steps"
            )
        return self._report

    def content(self) -> Content:
        """What it keeps, not copied."""
        assert self._kept is not None, "not started"
        return self._kept.save()

    def end(self) -> None:
        """Have it leave what it is at; it cleans up after itself."""
        if self._thread.is_alive():
            self._is_unwanted = True
            self._go.release()
            self._thread.join(_PATIENCE_S)

    # ------------------------------------------------------------------------------------------------ for the loop

    def resume(self, objects: Mapping[str, Any], save: Save | None, load: Load | None) -> int:
        """Take up what was kept, and stand still until there is something to train."""
        if self._kept is not None:
            raise TrainableError("resume() was called twice; call it once, before training")
        kept = Kept(objects, save, load)
        if self._given is not None:
            kept.load(self._given)
            self._given = None
        self._kept = kept
        self._stand()
        return self.step

    def report(self, metrics: Mapping[str, float], step: int) -> None:
        """Tell how training goes, and stand still until it is to go on."""
        if step <= self.step:
            raise TrainableError(
                f"{_name(self._train)} reports step {step} after step {self.step}; count on from what resume() "
                "returns, as in `for epoch in range(adapt.resume(...), epochs)`, and report one step only once"
            )
        self.step, self._report = step, Report(metrics, step)
        self._stand()

    def _stand(self) -> None:
        if not self._is_unwanted:
            self._stands.release()
            self._go.acquire()
        if self._is_unwanted:
            raise Ended

    def _live(self, threads: int) -> None:
        _of_thread.loop = self
        torch.set_num_threads(threads)
        try:
            if torch.device(self._device).index is not None:
                torch.cuda.set_device(self._device)
            self._train()
        except (Ended, SystemExit):
            pass
        except BaseException as error:
            self._error = error
        self._is_over = True
        self._stands.release()

    def _turn(self, seed: int, begin: Callable[[], Any]) -> None:
        with _TURN, seeded(seed), _own_arguments(_name(self._train), self._arguments):
            begin()
            self._stands.acquire()
        if self._is_over:
            self._thread.join(_PATIENCE_S)
        if self._error is not None:
            raise self._error


_TURN = threading.Lock()
_of_thread = threading.local()


def current() -> Loop | None:
    """The loop that the calling thread is; None outside any."""
    return getattr(_of_thread, "loop", None)


def check_asked(names: Collection[str], hparams: Hparams) -> None:
    """Refuse hyperparameters that a loop has no place for.

    Raises:
        TrainableError: There is one.
    """
    for name in hparams:
        if name not in names:
            raise TrainableError(f"hparam {name!r} is none of the script's own; {nearest(name, names)}")


def _name(train: Callable[[], Any]) -> str:
    return f"{getattr(train, '__qualname__', train)}()"


@contextmanager
def _own_arguments(name: str, arguments: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        yield
    finally:
        sys.argv = before
