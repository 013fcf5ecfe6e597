"""A callback for PyTorch Lightning: an epoch is a report, and a fit goes on from one.

Checked with Lightning 2.6: its checkpoints put settings such as the learning rate back, which belong to the member that
trains; and they are files. So a fit is taken up at its start, from what `trainables.own.kept` keeps of it.
"""

from __future__ import annotations

from typing import Any

from trainables.own.loop import Loop, current

try:
    from lightning.pytorch import Callback
except ImportError:  # the other package of the same code
    from pytorch_lightning import Callback

#: Where Lightning counts.
_COUNTED = ("ready", "started", "processed", "completed")


class Population(Callback):
    """Tells the sweep how a fit goes, and takes it up again."""

    def __init__(self) -> None:
        self._reported = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Go on from what was kept, once optimizers and schedulers are there."""
        loop = current()
        if loop is None:
            return
        objects = {"model": pl_module}
        objects |= {f"optimizer{number or ''}": it for number, it in enumerate(trainer.optimizers)}
        schedulers = (config.scheduler for config in trainer.lr_scheduler_configs)
        objects |= {f"scheduler{number or ''}": it for number, it in enumerate(schedulers)}
        if trainer.precision_plugin.state_dict():
            objects["precision"] = trainer.precision_plugin
        self._reported = loop.resume(objects, lambda: _place(trainer), lambda place: _go_to(trainer, place))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Report the epoch before: only now is all of it done, schedulers included."""
        self._report(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the last epoch."""
        self._report(trainer)

    def _report(self, trainer: Any) -> None:
        loop: Loop | None = current()
        epochs = trainer.fit_loop.epoch_progress.current.completed
        if loop is None or epochs <= self._reported:
            return
        self._reported = epochs
        loop.report({name: float(value) for name, value in trainer.callback_metrics.items()}, epochs)


def _place(trainer: Any) -> dict[str, int]:
    """How far it is, in whole epochs."""
    epochs = trainer.fit_loop.epoch_loop
    return {
        "epochs": trainer.fit_loop.epoch_progress.current.completed,
        "batches": epochs.batch_progress.total.completed,
        "steps": trainer.global_step,
        "logged": epochs._batches_that_stepped,
    }


def _go_to(trainer: Any, place: dict[str, int]) -> None:
    epochs = trainer.fit_loop.epoch_loop
    progress = trainer.fit_loop.epoch_progress
    counters = [(progress.total, place["epochs"]), (progress.current, place["epochs"])]
    counters.append((epochs.batch_progress.total, place["batches"]))
    is_automatic = trainer.lightning_module.automatic_optimization
    steps = epochs.automatic_optimization.optim_progress.optimizer.step
    counters.append(((steps if is_automatic else epochs.manual_optimization.optim_step_progress).total, place["steps"]))
    for counter, count in counters:
        for name in _COUNTED:
            if hasattr(counter, name):
                setattr(counter, name, count)
    epochs._batches_that_stepped = place["logged"]
