"""Two hosts against two bare processes on the same cores; and one brain for a thousand hosts."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.processes import cpu_s
from benchmarks.rounds import ratio, take_turns
from pbt import PBT, Budget, Checkpoints, Hosts, Sweep
from pbt.member import lay_out
from pbt.record.ledger import Ledger
from pbt.runtime.brain import Brain
from pbt.runtime.brain_actor import BrainActor, Turn, wrap
from pbt.runtime.orders import Examination, SegmentResult, StackReport, WorkOrder
from pbt.runtime.plan import Plan
from pbt.runtime.states import States
from pbt.strategy import Task
from searchspaces import Float, Space
from trainables import Place, Shard, State, Vision

_SPACE = {"lr": Float(1e-4, 1e-1, log=True)}
_HOSTS, _CAPACITY = 2, 4
#: What both sides train: small enough for a segment of 2 s to have some hundred steps.
_TRAINABLE = Vision(width=8, batch=16)


# ------------------------------------------------------------------------------------------------------- weak scaling


def weak_scaling(rounds: int, generations: int, paces: Sequence[bool]) -> dict[str, Any]:
    """Member-steps per second of two hosts over those of two bare processes, which take turns.

    Args:
        rounds: Turns of each.
        generations: Segments of a turn.
        paces: Whether ours is synchronous; each is compared.
    """
    steps = max(1, round(2.0 * _bare_rate(16, 3) / (_HOSTS * _CAPACITY)))
    names = {pace: "ours, synchronous" if pace else "ours" for pace in paces}
    sides = {name: partial(_our_rate, steps, generations, synchronous=pace) for pace, name in names.items()}
    rates = take_turns({"bare": partial(_bare_rate, steps, generations), **sides}, rounds)
    found = {"weak_scaling_synchronous" if pace else "weak_scaling": rates[name] for pace, name in names.items()}
    return {
        **{key: asdict(ratio(ours, rates["bare"])) for key, ours in found.items()},
        "member_steps_per_s": rates,
        "weak_scaling_segments": {"steps": steps, "generations": generations},
    }


def _bare_rate(steps: int, generations: int) -> float:
    context = multiprocessing.get_context("spawn")
    with context.Pool(_HOSTS) as pool:
        return sum(pool.map(partial(_bare, steps, generations), range(_HOSTS), chunksize=1))


def _bare(steps: int, generations: int, number: int) -> float:
    """What a host does, by hand: train a stack, evaluate it, again and again."""
    torch.set_num_threads(1)
    stack = _TRAINABLE.build(_TRAINABLE.bucket({}), _CAPACITY, Place(compile="never"))
    for slot in range(_CAPACITY):
        stack.admit(slot, {"lr": 1e-3}, seed=_CAPACITY * number + slot)
    for generation in range(1, generations + 1):
        stack.run([generation * steps] * _CAPACITY)
        stack.evaluate("validation", range(_CAPACITY))
        if generation == 1:
            began = time.perf_counter()
    return _CAPACITY * steps * (generations - 1) / (time.perf_counter() - began)


def _our_rate(steps: int, generations: int, synchronous: bool) -> float:
    members = _HOSTS * _CAPACITY
    with tempfile.TemporaryDirectory() as folder:
        result = Sweep(
            name="weak",
            trainable=_TRAINABLE,
            space=_SPACE,
            objective="loss",
            strategy=PBT(synchronous=synchronous),
            budget=Budget(members=members, generations=generations, steps=steps),
            checkpoints=Checkpoints(every_minutes=None),
            hosts=Hosts(kind="ray", stacks=_HOSTS, compile="never", plan="off"),
            storage=folder,
            tracking=False,
        ).run(progress=False)
        rows = result.rows
    stacks = {(row["member"], row["segment"]): row["stack"] for row in rows["segments"]}
    total = 0.0
    for stack in range(_HOSTS):
        own = [row["at"] for row in rows["outcomes"] if stacks[row["member"], row["segment"]] == stack]
        moments = sorted(own)[_CAPACITY - 1 :: _CAPACITY]  # the stack's last member of each generation
        total += _CAPACITY * steps * (len(moments) - 1) / (moments[-1] - moments[0])
    return total


# -------------------------------------------------------------------------------------------------------- many hosts


def many_hosts(hosts: int, capacity: int, generations: int) -> dict[str, Any]:
    """A population on so many hosts that do nothing but answer, each asking the brain's actor as a real one does."""
    members = hosts * capacity
    budget = Budget(members=members, generations=generations, steps=1)
    plan = Plan(
        slots=lay_out(members, hosts),
        bucket="none",
        defaults={"lr": 1e-3},
        metric="score",
        split="validation",
        tokens_per_step=1,
        budget=budget,
        checkpoints=Checkpoints(every_minutes=None),
    )
    task = Task(space=Space(_SPACE), metric="score", mode="max", budget=budget, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        make = partial(_make_brain, plan, task, Path(folder))
        options = {"num_cpus": 0, "max_concurrency": 100_000}
        brain = ray.remote(BrainActor).options(**options).remote(make, folder, hosts, 3600.0, _never)
        ray.get(brain.num_trained.remote())
        found = asyncio.run(_drive(brain, hosts, members * generations))
        ray.kill(brain)
    return {"hosts": hosts, "members": members, "generations": generations, **found}


def _never() -> bool:
    return False


def _make_brain(plan: Plan, task: Task, run: Path, states: States, is_restarted: bool) -> Brain:
    return Brain(plan, PBT().begin(task), Ledger(run), states)


async def _drive(brain: Any, hosts: int, segments: int) -> dict[str, float]:
    """What it costs to train so many segments; that they are then saved is the disk's affair, and not counted."""
    before_s, began = cpu_s("BrainActor"), time.perf_counter()
    answers = [asyncio.create_task(_host(brain, number)) for number in range(hosts)]
    while (trained := await brain.num_trained.remote()) < segments and not all(answer.done() for answer in answers):
        await asyncio.sleep(0.05)
    seconds, spent_s = time.perf_counter() - began, cpu_s("BrainActor") - before_s
    for answer in answers:
        answer.cancel()
    assert trained == segments, f"{trained} segments of {segments}"
    return {
        "seconds": seconds,
        "segments_per_second": segments / seconds,
        "brain_cpu_us_per_segment": 1e6 * spent_s / segments,
        "brain_cpu_share": spent_s / seconds,
    }


async def _host(brain: Any, number: int) -> None:
    """Ask, answer, ask again, to the end."""
    life = await brain.join.remote(number, None)
    reports: Sequence[StackReport] = ()
    while True:
        turn: Turn = await brain.exchange.remote(number, life, reports)
        if turn.done:
            return
        for order in turn.orders:
            for item in order.publish:
                await brain.publish.remote(number, life, item.token, wrap(_STATE))
        for order in turn.orders:
            for fetch in order.fetch:
                await brain.fetch.remote(number, life, order.stack, order.id, fetch.token)
        reports = [_report(order) for order in turn.orders]


_STATE = State((Shard.whole("weights", torch.zeros(1)),), 0, 0, 0)


def _report(order: WorkOrder) -> StackReport:
    segments = tuple(
        SegmentResult(
            member=item.member,
            segment=item.segment,
            age=item.until,
            consumed=item.until,
            held=item.hparams,
            evaluation={"score": random.random()},
        )
        for item in order.train
    )
    examinations = tuple(
        Examination(member=item.member, split=item.split, age=0, consumed=0, metrics={"score": 0.0})
        for item in order.examine
    )
    return StackReport(order=order.id, stack=order.stack, wall_s=1.0, segments=segments, examinations=examinations)
