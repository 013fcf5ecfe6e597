"""Precision: one setting for the model's arithmetic; parameters and optimizer stay in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainables import Language, Place, Quadratic, TrainableError
from trainables.core.precision import arithmetic, compute_dtype

LANGUAGE = Language(width=32, depth=1, context=32, eval_bytes=512)


def trained(precision: str, steps: int = 20, **hparams):
    stack = LANGUAGE.build(LANGUAGE.bucket({}), 2, Place(compile="never", precision=precision))
    for slot in range(2):
        stack.admit(slot, {"lr": 0.01, **hparams}, seed=slot)
    metrics = stack.run([steps] * 2)
    return stack, metrics


def test_bf16_trains_as_fp32_does_to_its_own_rounding():
    """Loss and evaluation differ by less than bfloat16's three digits, and do differ."""
    (exact, expected), (coarse, found) = trained("fp32"), trained("bf16")
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=5e-3)
    assert (found["loss"] != expected["loss"]).all()
    losses = [stack.evaluate("validation", [0, 1])["loss"] for stack in (exact, coarse)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=5e-3)
    assert (losses[1] != losses[0]).all()


def test_bf16_has_float32_masters():
    """In a state, and in every update: steps far below bfloat16's spacing add up instead of being lost."""
    stack, _ = trained("bf16", steps=0)
    before = {shard.name: shard.tensor.clone() for shard in stack.state(0).shards}
    assert {t.dtype for name, t in before.items() if name.startswith(("params.", "adamw.exp"))} == {torch.float32}
    # A gain is 1, where bfloat16's neighbours are 2^-8 and 2^-7 away; Adam's first steps change it by lr each.
    stack.set_hparams([0], lr=[1e-5], warmup_steps=[0])
    stack.run([4, 0])
    after = {shard.name: shard.tensor for shard in stack.state(0).shards}
    moved = (after["params.norm"] - before["params.norm"]).abs()
    assert 1e-6 < float(moved.max()) < 1e-4


def test_tf32_is_a_matter_of_cuda():
    """On a CPU it is fp32, bit for bit."""
    (_, expected), (_, found) = trained("fp32", 3), trained("tf32", 3)
    np.testing.assert_array_equal(found["loss"], expected["loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "precision is 'fp16'; give one of fp32, tf32, bf16"),
        ({"precision": "bf16", "dtype": "float64"}, "precision is 'bf16' with dtype float64"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    """By name."""
    with pytest.raises(TrainableError, match=message):
        Place(**options)


def test_double_precision_computes_in_double_precision():
    """Where exact comparisons are wanted, nothing is cast."""
    assert compute_dtype(Place(dtype="float64")) == torch.float64
    assert compute_dtype(Place(precision="bf16")) == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "setting"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_the_setting_of_cuda_holds_while_a_stack_computes_and_is_put_back(precision, setting):
    """It is the process's own."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    before = torch.backends.cuda.matmul.fp32_precision
    with arithmetic(Place(device="cuda", precision=precision)):
        assert torch.backends.cuda.matmul.fp32_precision == setting
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_a_model_without_floating_inputs_runs_in_bf16():
    """The loss of a closed form, to three digits."""
    stack = Quadratic().build(Quadratic().bucket({}), 1, Place(compile="never", precision="bf16"))
    stack.admit(0, {}, seed=0)
    assert stack.evaluate("validation", [0])["Q"][0] == pytest.approx(1.2 - 2 * 0.9**2, abs=0.02)
