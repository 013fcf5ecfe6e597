"""The host that lives in this process: no Ray, one thread for each stack."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from pbt.runtime.brain import Brain, Keep
from pbt.runtime.checkpoints import CheckpointStore
from pbt.runtime.exchange import LocalExchange
from pbt.runtime.orders import perform
from trainables import Place, Trainable


def run_local(
    make_brain: Callable[[Keep], Brain], *, run: Path, trainable: Trainable, bucket: str, place: Place
) -> None:
    """Run a sweep to its end in this process.

    Args:
        make_brain: Builds the brain, given the function that saves published states.
        run: The run's folder.
        trainable: What is trained.
        bucket: The bucket of all stacks.
        place: Device and precision.
    """
    exchange, store = LocalExchange(), CheckpointStore(run / "checkpoints")
    brain = make_brain(lambda token, about: store.save(exchange.fetch(token), about))
    try:
        with _one_thread_each(place), ThreadPoolExecutor(brain.num_stacks, thread_name_prefix="stack") as executor:
            stacks = {stack: trainable.build(bucket, brain.capacity(stack), place) for stack in range(brain.num_stacks)}
            brain.start()
            while not brain.finished:
                brain.report(perform(stacks, brain.orders(stacks), exchange, executor))
    finally:
        brain.close()


def num_cores() -> int:
    """Cores this process may use, which in a container or a batch job are fewer than the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


@contextmanager
def _one_thread_each(place: Place) -> Iterator[None]:
    """One intra-op thread per stack on a CPU, as on every other kind of host; the caller's setting comes back."""
    if torch.device(place.device).type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
