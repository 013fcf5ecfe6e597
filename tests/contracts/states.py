"""Comparing members' states: bit for bit, or to a tolerance of each tensor's norm."""

import torch

from trainables.base import State


def same(expected: State, actual: State) -> bool:
    """Whether two states agree bit for bit; NaNs of equal bits are equal."""
    return _counters(expected) == _counters(actual) and _bits(expected) == _bits(actual)


def assert_same(expected: State, actual: State) -> None:
    """Two states agree bit for bit."""
    assert _counters(expected) == _counters(actual)
    assert_weights(expected, actual)


def assert_weights(expected: State, actual: State) -> None:
    """Weights and optimizer state agree bit for bit; the message lists the tensors that do not."""
    pairs = zip(_bits(expected), _bits(actual), strict=True)
    assert [a[0] for a, b in pairs if a != b] == []


def assert_close(expected: State, actual: State, tolerance: float, but: str | None = None) -> None:
    """Every tensor differs by at most `tolerance` of its norm, but those with this in their names."""
    for a, b in zip(expected.shards, actual.shards, strict=True):
        assert a.name == b.name
        if but is not None and but in a.name:
            continue
        norm = a.tensor.double().norm().item()
        assert (a.tensor.double() - b.tensor.double()).norm().item() <= tolerance * norm, a.name


def finite(state: State) -> bool:
    """Whether every value of a state is finite."""
    return all(bool(torch.isfinite(shard.tensor).all()) for shard in state.shards)


def _bits(state: State) -> list[tuple[str, bytes]]:
    return [(shard.name, shard.tensor.cpu().numpy().tobytes()) for shard in state.shards]


def _counters(state: State) -> tuple[int, int, int]:
    return state.age, state.consumed, state.seed
