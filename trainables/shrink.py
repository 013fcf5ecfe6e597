"""Shrink and perturb: weights that keep some of what they have learned, and can learn again as new ones can.

Source: Ash and Adams 2020, "On Warm-Starting Neural Network Training" (arXiv 1910.08475).
"""

from __future__ import annotations

from dataclasses import replace

from trainables.base import Hparams, Shard, Stack
from trainables.errors import TrainableError

#: How names of parameters begin, and those of what holds places; whole numbers in these are places in the data.
_PARAMETERS, _PLACES = "params.", ("buffers.", "counters.", "place.")


def shrink_and_perturb(stack: Stack, slot: int, hparams: Hparams, *, keep: float, noise: float, seed: int) -> None:
    """Turn the parameters of the member in a slot into `keep * trained + noise * fresh`.

    Its optimizer begins anew, and so do running statistics, which are learned within a few steps. Its place in the data
    stays, and so do its seed, `age` and `consumed`.

    Args:
        stack: Of any trainable: only the contract is used.
        slot: Which member.
        hparams: Its hyperparameters from now on.
        keep: Share of the trained parameters, in [0, 1].
        noise: Share of the fresh ones, in [0, 1].
        seed: Of the fresh ones.

    Raises:
        TrainableError: A share is none, or the stack does not say which of its tensors are parameters.
    """
    for name, share in (("keep", keep), ("noise", noise)):
        if not 0.0 <= share <= 1.0:  # nor NaN
            raise TrainableError(f"{name} is {share!r}; give a number from 0 to 1")
    trained = stack.state(slot)
    if not any(map(_is_parameter, trained.shards)):
        raise TrainableError(f"no tensor of the state is named `{_PARAMETERS}...`; name the parameters so")
    stack.admit(slot, hparams, seed)
    fresh = stack.state(slot)
    old = {shard.name: shard for shard in trained.shards}  # of one stack: the same parameters, cut alike
    mixed = tuple(_mixed(old.get(new.name, new), new, keep, noise) for new in fresh.shards)
    stack.admit(slot, hparams, trained.seed, replace(trained, shards=mixed), trained.consumed)


def _mixed(old: Shard, new: Shard, keep: float, noise: float) -> Shard:
    if _is_parameter(new):
        return replace(new, tensor=keep * old.tensor + noise * new.tensor)
    return old if _is_place(new) else new


def _is_parameter(shard: Shard) -> bool:
    return shard.name.startswith(_PARAMETERS) and shard.tensor.is_floating_point()


def _is_place(shard: Shard) -> bool:
    return shard.name.startswith(_PLACES) and not shard.tensor.is_floating_point()
