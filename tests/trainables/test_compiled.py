"""The contract of every trainable, with every step compiled, on samples: a toy and the language model."""

from __future__ import annotations

import pytest

from tests.trainables import test_language, test_quadratic
from trainables import Place
from trainables.core.step import compiler

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler for torch.compile"),
    # torch's own, while it imports its compiler.
]


class TestQuadratic(test_quadratic.TestContract):
    """`Quadratic` keeps the contract compiled."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(compile="always")


class TestLanguage(test_language.TestContract):
    """`Language` keeps the contract compiled.

    Comparisons in float64 are eager here: `TestQuadratic` has them compiled, and a graph takes half a minute or more.
    """

    @pytest.fixture
    def place(self) -> Place:
        return Place(compile="always")

    @pytest.fixture
    def exact(self) -> Place:
        return Place(dtype="float64", compile="never")
