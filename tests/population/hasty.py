"""A stand-in for the bandit, for suites that ask a strategy a thousand times: what it proposes is drawn."""

from __future__ import annotations

from pbt.member import generator
from pbt.population import proposals
from pbt.population.explore import carried


class HastyBandit:
    """Says what `Bandit` says, in type; follows from the same seed, moment and member."""

    def __init__(self, task, experience, horizon):
        self.task = task

    def doubt(self, generation, state):
        """Now and then."""
        return "a made-up doubt" if generation % 3 == 2 else None

    def choose(self, generation, paired, others):
        """Any places of the space that the donors' weights are made for."""
        rngs = [generator(self.task.seed, "bandit", generation, receiver.member) for receiver, _ in paired]
        bound = [carried(self.task, donor.hparams) for _, donor in paired]
        return [self.task.space.sample(rng, own) for rng, own in zip(rngs, bound, strict=True)]

    def expect(self, experience, going_on):
        """Nothing of anybody, give or take 1."""
        for member in going_on:
            experience.expect(member, 0.0, 1.0)


def replace_bandit(monkeypatch):
    """Let strategies ask the stand-in."""
    monkeypatch.setattr(proposals, "Bandit", HastyBandit)
