"""Sweeps that never ran: small, consistent ledgers written through the real writer.

`story` tells a scripted sweep commit by commit, so that a test can stop anywhere; `tell` writes it whole. The script
is short enough to know by heart:

    six members, four generations of 100 steps; validation bits_per_byte, small is good
    after generation 1   member 5 takes over member 0, member 4 (diverged: NaN) takes over member 1
    in generation 2      member 3 fails
    after generation 2   member 2 considers member 5 and declines
    after generation 3   member 1 takes over member 5
    the winner           member 1, whose weights came 0 -> 5 -> 5 -> 1

`simulate` makes sweeps of any size for pictures.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pbt.member import SegmentKey
from pbt.record import schema
from pbt.record.ledger import Ledger
from pbt.spec import Budget, Component, Objective, SweepSpec, to_dict

NAN = math.nan
METRIC, SPLIT = "bits_per_byte", "validation"
CREATED = 1_700_000_000.0

SPACE: dict[str, dict[str, Any]] = {
    "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "optimizer": {"type": "choice", "options": ["sgd", "adamw"]},
    "nesterov": {"type": "choice", "options": [False, True]},
    "mix": {"type": "simplex", "parts": ["books", "web"]},
}

#: Scores of the scripted sweep, `SCORES[member][generation]`; None where the member failed or was gone.
SCORES: dict[int, tuple[float | None, ...]] = {
    0: (2.0, 1.8, 1.7, 1.65),
    1: (2.1, 1.95, 1.9, 1.3),
    2: (2.2, 2.0, 1.85, 1.8),
    3: (2.3, None, None, None),
    4: (NAN, 2.05, 1.9, 1.75),
    5: (2.5, 1.6, 1.5, 1.4),
}
#: Donors by (receiver, generations completed).
EXPLOITS = {(5, 1): 0, (4, 1): 1, (1, 3): 5}
FAILURE = "out of memory on cuda:0"
DECLINED = "member 5 is better by less than the noise"
MEMBERS, GENERATIONS, STEPS = 6, 4, 100


def hparams(member: int, changes: int = 0) -> dict[str, Any]:
    """What a member of the scripted sweep starts with, and has after so many exploits."""
    return {
        "lr": 0.001 * (member + 1) * 2**changes,
        "optimizer": "adamw" if (member + changes) % 2 else "sgd",
        "nesterov": member % 2 == 0,
        "mix": {"books": 0.25, "web": 0.75},
        "momentum": 0.9,
    }


def run_json(run: Path, *, members: int, generations: int, steps: int, space: Mapping[str, Any] = SPACE) -> Path:
    """Write what the command line writes before anything else, and return the folder."""
    spec = SweepSpec(
        trainable=Component(name="language", options={"corpus": "corpus/", "width": 64}),
        space=space,
        objective=Objective(metric=METRIC),
        strategy=Component(name="pbt"),
        budget=Budget(members=members, generations=generations, steps=steps),
        name="made-up",
    )
    data = {
        "run_id": run.name,
        "spec": to_dict(spec),
        "objective": {"metric": METRIC, "mode": "min", "split": SPLIT},
        "created": CREATED,
        "versions": {"pbt": "0.1.0", "torch": "2.13.0"},
        "data": {"corpus": "corpus/", "sha256": "ab" * 32, "train_tokens": 1_000_000},
        "metrics": {METRIC: {"mode": "min", "unit": "bits/byte"}, "accuracy": {"mode": "max", "unit": ""}},
        "tokens_per_step": 512,
        "hparams": dict(space),
        "fixed": {"momentum": 0.9},
        "device": "cpu",
    }
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps(data, indent=1))
    return run


@dataclass
class Clock:
    """A clock that moves 10 ms at each look, and as far as it is told."""

    now: float = CREATED

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


@dataclass
class Pen:
    """Writes segments, outcomes and decisions of synchronous PBT, keeping age, consumed and parents in order."""

    ledger: Ledger
    clock: Clock
    steps: int = STEPS
    stacks: int = 2
    age: dict[int, int] = field(default_factory=dict)
    latest: dict[int, SegmentKey] = field(default_factory=dict)
    hparams: dict[int, dict[str, Any]] = field(default_factory=dict)

    def begin(self, member: int, generation: int, values: dict[str, Any], donor: int | None = None) -> None:
        """Open the member's next segment; with `donor`, on the donor's weights."""
        before = self.latest.get(member)
        start = "fresh" if before is None else "own" if donor is None else "copied"
        parent = before if donor is None else self.latest[donor]
        key = SegmentKey(member, before.index + 1 if before else 0)
        self.hparams[member] = values
        self.ledger.append(
            "segments",
            member=member,
            segment=key.index,
            generation=generation,
            start=start,
            parent_member=parent.member if parent else None,
            parent_segment=parent.index if parent else None,
            hparams=schema.canonical(values),
            seed=1000 + member,
            bucket="language",
            stack=member % self.stacks,
            slot=member // self.stacks,
            age_start=self.age.setdefault(member, 0),
            consumed_start=generation * self.steps,
            until=(generation + 1) * self.steps,
            cause="start" if before is None else f"report:{member}:{before.index}",
        )

    def settle(self) -> None:
        """All segments opened are the latest now. Copies read the donors' state of before."""
        self.latest = {m: SegmentKey(m, self.latest[m].index + 1 if m in self.latest else 0) for m in self.hparams}

    def exploit(self, receiver: int, donor: int, generation: int, values: dict[str, Any], age: int) -> None:
        """Decide a copy and new values, and open the segment that carries them out."""
        decided = {"member": receiver, "segment": self.latest[receiver].index, "cause": f"report:{receiver}"}
        before = schema.canonical(self.hparams[receiver])
        self.ledger.append("decisions", kind="copy", donor=donor, reason=f"member {donor} is better", **decided)
        self.ledger.append(
            "decisions", kind="set", hparams_before=before, hparams=schema.canonical(values), reason="", **decided
        )
        self.age[receiver] = age
        self.begin(receiver, generation, values, donor)

    def report(self, member: int, generation: int, score: float, train: float) -> None:
        """Close the member's segment with its metrics."""
        key, consumed = self.latest[member], (generation + 1) * self.steps
        self.age[member] += self.steps
        where = {"member": member, "segment": key.index, "age": self.age[member], "consumed": consumed}
        self.ledger.append("metrics", split="train", name="loss", value=train, **where)
        self.ledger.append("metrics", split=SPLIT, name=METRIC, value=score, **where)
        self.ledger.append(
            "outcomes",
            member=member,
            segment=key.index,
            status="ended",
            hparams_in_effect=schema.canonical(self.hparams[member]),
            age_end=self.age[member],
            consumed_end=consumed,
            score=score,
            wall_s=2.5,
            tokens=self.steps * 512,
            reason="",
        )

    def fail(self, member: int, generation: int, after: int, reason: str) -> None:
        """Close the member's segment as failed, `after` steps into it."""
        self.ledger.append(
            "outcomes",
            member=member,
            segment=self.latest[member].index,
            status="failed",
            hparams_in_effect=schema.canonical(self.hparams[member]),
            age_end=self.age[member] + after,
            consumed_end=generation * self.steps + after,
            score=None,
            wall_s=1.0,
            tokens=after * 512,
            reason=reason,
        )
        del self.hparams[member]

    def drop(self) -> None:
        """Let go of the ledger as a process does that dies: what was committed is there, nothing is sealed."""
        self.ledger.abandon()

    def finish(self, best: int, test: float) -> None:
        """Announce the winner, evaluate it on the test split, and save it."""
        key, consumed = self.latest[best], max(self.age.values())
        self.ledger.append("decisions", kind="finish", member=best, segment=key.index, reason="budget spent", cause="")
        where = {"member": best, "segment": key.index, "age": self.age[best], "consumed": consumed}
        self.ledger.append("metrics", split="test", name=METRIC, value=test, **where)
        self.ledger.append("checkpoints", member=best, segment=key.index, digest="cd" * 32, size_bytes=4096)


def story(run: Path) -> Iterator[None]:
    """The scripted sweep, a commit at a time: two for each generation, and one for the test score."""
    run_json(run, members=MEMBERS, generations=GENERATIONS, steps=STEPS)
    clock = Clock()
    ledger = Ledger(run, clock)
    pen = Pen(ledger, clock)
    try:
        for member in range(MEMBERS):
            ledger.append("decisions", kind="start", member=member, hparams=schema.canonical(hparams(member)), cause="")
            pen.begin(member, 0, hparams(member))
        pen.settle()
        for generation in range(GENERATIONS):
            ledger.commit()
            yield
            clock.now += 30.0
            _reports(pen, generation)
            ledger.commit()
            yield
            if generation + 1 < GENERATIONS:
                _decisions(pen, generation + 1)
        pen.finish(best=1, test=1.35)
        ledger.commit()
        yield
        ledger.close(finished=True)
    finally:
        pen.drop()


def _reports(pen: Pen, generation: int) -> None:
    for member, scores in SCORES.items():
        score = scores[generation]
        if score is not None:
            pen.report(member, generation, score, train=score - 0.1)
        elif member in pen.hparams:
            pen.fail(member, generation, after=40, reason=FAILURE)


def _decisions(pen: Pen, generation: int) -> None:
    ages = dict(pen.age)
    for member in list(pen.hparams):
        donor = EXPLOITS.get((member, generation))
        if donor is not None:
            pen.exploit(member, donor, generation, hparams(donor, changes=1), ages[donor])
            continue
        if (member, generation) == (2, 2):
            pen.ledger.append("decisions", kind="decline", member=2, segment=1, reason=DECLINED, cause="report:2")
        pen.begin(member, generation, pen.hparams[member])
    pen.settle()


def tell(run: Path, commits: int | None = None) -> Path:
    """Write the scripted sweep, or its first `commits` commits, and return its folder."""
    with contextlib.closing(story(run)) as commit:
        for _ in itertools.islice(commit, commits):
            pass
    return run


def simulate(
    run: Path, *, members: int, generations: int, seed: int = 0, diverges: bool = True, steps: int = STEPS
) -> Path:
    """Write a sweep of any size: the quarter that is worst takes over the best quarter's weights."""
    rng = np.random.default_rng(seed)
    run_json(run, members=members, generations=generations, steps=steps)
    clock = Clock()
    pen = Pen(Ledger(run, clock), clock, steps=steps)
    skill = _skills(members, rng, pen)
    scores: dict[int, float] = {}
    for generation in range(generations):
        pen.ledger.commit()
        clock.now += 30.0
        for member in sorted(pen.hparams):
            skill[member] -= _gain(pen.hparams[member]["lr"]) * skill[member] * rng.uniform(0.7, 1.3)
            scores[member] = 1.0 + skill[member] + rng.normal(0, 0.01)
        if diverges and generation == 1:
            scores[members - 1] = NAN
            scores[members // 2] *= 40
        for member in sorted(pen.hparams):
            if (member, generation) == (members - 2, 2):
                pen.fail(member, generation, 50, "lost its GPU")
                del scores[member]
            else:
                pen.report(member, generation, scores[member], scores[member] - 0.05)
        if generation + 1 < generations:
            _truncate(pen, generation + 1, scores, skill, rng)
    best = min(scores, key=lambda member: (math.isnan(scores[member]), scores[member]))
    pen.finish(best, scores[best] + 0.02)
    pen.ledger.close(finished=True)
    return run


def _skills(members: int, rng: np.random.Generator, pen: Pen) -> dict[int, float]:
    for member in range(members):
        values = hparams(member) | {"lr": float(10 ** rng.uniform(-4, -1))}
        share = float(rng.uniform(0.1, 0.9))
        pen.begin(member, 0, values | {"mix": {"books": share, "web": 1 - share}})
    pen.settle()
    return {member: float(rng.uniform(1.8, 2.2)) for member in range(members)}


def _gain(lr: float) -> float:
    return 0.35 * math.exp(-((math.log10(lr) + 2.3) ** 2))


def _truncate(
    pen: Pen, generation: int, scores: dict[int, float], skill: dict[int, float], rng: np.random.Generator
) -> None:
    order = sorted(pen.hparams, key=lambda member: (math.isnan(scores[member]), scores[member]))
    quarter = max(1, len(order) // 4)
    receivers = {member: int(rng.choice(order[:quarter])) for member in order[-quarter:]}
    ages = dict(pen.age)
    for member in sorted(pen.hparams):
        if (donor := receivers.get(member)) is None:
            pen.begin(member, generation, pen.hparams[member])
            continue
        lr = min(0.1, max(1e-4, pen.hparams[donor]["lr"] * float(rng.choice([0.8, 1.25]))))
        pen.exploit(member, donor, generation, pen.hparams[donor] | {"lr": lr}, ages[donor])
        skill[member] = skill[donor]
    pen.settle()


def evolve(
    run: Path,
    *,
    space: Mapping[str, Any],
    sample: Callable[[np.random.Generator], dict[str, Any]],
    gain: Callable[[Mapping[str, Any]], float],
    members: int = 32,
    generations: int = 10,
    copies: bool = True,
    noise: float = 0.02,
    seed: int = 0,
) -> Path:
    """Write a sweep whose scores follow from its hyperparameters in a known way.

    Args:
        run: The run's folder.
        space: What varies.
        sample: Draws a member's hyperparameters; a receiver gets new ones, and the donor's weights.
        gain: Share of what is left to learn that a segment with these hyperparameters learns.
        members: How many.
        generations: How many.
        copies: Whether the quarter that is worst takes over the best quarter's weights.
        noise: Of a gain.
        seed: Of all draws.
    """
    rng = np.random.default_rng(seed)
    run_json(run, members=members, generations=generations, steps=STEPS, space=space)
    clock = Clock()
    pen = Pen(Ledger(run, clock), clock)
    left = {member: float(rng.uniform(1.8, 2.2)) for member in range(members)}
    for member in range(members):
        pen.begin(member, 0, sample(rng))
    pen.settle()
    for generation in range(generations):
        pen.ledger.commit()
        clock.now += 30.0
        for member in range(members):
            left[member] *= 1 - gain(pen.hparams[member]) - rng.normal(0, noise)
            pen.report(member, generation, left[member], left[member])
        if generation + 1 < generations:
            order, ages, before = sorted(left, key=lambda member: left[member]), dict(pen.age), dict(left)
            quarter = members // 4 if copies else 0
            donors = {member: int(rng.choice(order[:quarter])) for member in order[members - quarter :]}
            for member in range(members):
                if member in donors:
                    donor = donors[member]
                    pen.exploit(member, donor, generation + 1, sample(rng), ages[donor])
                    left[member] = before[donor]
                else:
                    pen.begin(member, generation + 1, pen.hparams[member])
            pen.settle()
    best = min(left, key=lambda member: left[member])
    pen.finish(best, left[best])
    pen.ledger.close(finished=True)
    return run
