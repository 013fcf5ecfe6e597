"""The contract of every trainable, on a CUDA device, eager; skipped with its reason where there is none."""

from __future__ import annotations

import pytest

from tests.trainables import (
    test_language,
    test_language_accumulation,
    test_language_batch_size,
    test_language_mixture,
    test_language_optimizers,
    test_language_stability,
    test_quadratic,
    test_vision,
)
from trainables import Place

pytestmark = pytest.mark.gpu


class TestLanguage(test_language.TestContract):
    """`Language` keeps the contract on CUDA."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(device="cuda", compile="never")


class TestLanguageInMicroBatches(test_language_accumulation.TestContract):
    """Micro-batches, and what is measured on them, keep it on CUDA."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(device="cuda", compile="never")


class TestLanguageOfSeveralBatchSizes(test_language_batch_size.TestContractInMicroBatches):
    """Members with batch sizes of their own keep it on CUDA."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(device="cuda", compile="never")


class TestLanguageOfMixedDomains(test_language_mixture.TestMixtureContract):
    """Proportions, and a cursor for each domain, keep it on CUDA."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(device="cuda", compile="never")


class TestLanguageStabilised(test_language_stability.TestContract):
    """Normalised queries and keys and the z-loss keep it on CUDA."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(device="cuda", compile="never")


class TestNAdamW(test_language_optimizers.TestNAdamW):
    """An optimizer with state for each member keeps it on CUDA."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(device="cuda", compile="never")


class TestTorchRMSprop(test_language_optimizers.TestTorchRMSprop):
    """A class of torch.optim keeps it on CUDA."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(device="cuda", compile="never")


class TestQuadratic(test_quadratic.TestContract):
    """`Quadratic` keeps the contract on CUDA."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(device="cuda", compile="never")


class TestVisionWithBatchNorm(test_vision.TestContract):
    """Convolutions and running statistics keep it on CUDA."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(device="cuda", compile="never")


class TestVisionOfTransformers(test_vision.TestContractOfTransformers):
    """Attention without a mask keeps it on CUDA."""

    @pytest.fixture
    def place(self) -> Place:
        return Place(device="cuda", compile="never")
