"""A callback for the Trainer of Hugging Face's transformers: an evaluation is a report, and training goes on from one.

Checked with transformers 5.23. Its checkpoints put settings such as the learning rate back, which belong to the member
that trains; and they are files. So training is taken up at its beginning, from what `trainables.own.kept` keeps.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from trainables.own.loop import current

#: What an evaluation says of itself.
_CLOCKS = ("_runtime", "_per_second", "epoch")


class Population(TrainerCallback):
    """Tells the sweep how training goes, and takes it up again. Counts go on; those of the Trainer begin anew."""

    def __init__(self) -> None:
        self._is_training = False
        self._before = {"steps": 0, "epochs": 0.0}
        self._state: Any = None
        self._loss: dict[str, float] = {}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **others: Any
    ) -> None:
        """Go on from what was kept, in an order of the data that it has not been in."""
        loop = current()
        if loop is None:
            return
        self._state, self._is_training = state, True
        objects = {"model": model, "optimizer": getattr(optimizer, "optimizer", optimizer)}
        if (scheduler := others.get("lr_scheduler")) is not None:
            objects["scheduler"] = getattr(scheduler, "scheduler", scheduler)
        loop.resume(objects, self._place, self._go_to)
        _go_through(others.get("train_dataloader"), self._before, args)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End where the script says, counted from the beginning of the weights."""
        if self._is_training and self._before["steps"] + state.global_step >= state.max_steps:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Take the training loss along."""
        if logs and "loss" in logs:
            self._loss = {"loss": float(logs["loss"])}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Report it, if it comes about in training."""
        loop = current()
        if loop is None or not self._is_training:
            return
        numbers = {name: value for name, value in (metrics or {}).items() if isinstance(value, int | float)}
        told = {name: float(value) for name, value in numbers.items() if not name.endswith(_CLOCKS)}
        loop.report({**self._loss, **told}, self._place()["steps"])

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluations after training are the script's own."""
        self._is_training = False

    def _place(self) -> dict[str, Any]:
        return {
            "steps": self._before["steps"] + self._state.global_step,
            "epochs": self._before["epochs"] + (self._state.epoch or 0.0),
        }

    def _go_to(self, place: dict[str, Any]) -> None:
        self._before = dict(place)


def _go_through(loader: Any, before: dict[str, Any], args: Any) -> None:
    """Have a loader give the data in the order of the epoch that is due, or, within one, in another order.

    The Trainer counts its epochs from 0. Accelerate's sampler draws an epoch's order from its seed plus that number.
    """
    from accelerate.data_loader import get_sampler

    sampler: Any = None if loader is None else get_sampler(loader)
    if hasattr(sampler, "initial_seed"):
        epochs = float(before["epochs"])
        sampler.initial_seed += int(epochs) if epochs.is_integer() else int(args.num_train_epochs) + before["steps"]
