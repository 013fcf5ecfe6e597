import pytest
import torch

from trainables.core.schedules import Constant, WarmupCosine


@pytest.mark.parametrize(
    ("warmup", "decay", "ratio", "age", "expected"),
    [
        (0, 0, 0.1, 0, 1.0),
        (0, 0, 0.1, 10**6, 1.0),
        (4, 0, 0.1, 0, 0.25),
        (4, 0, 0.1, 3, 1.0),
        (4, 0, 0.1, 4, 1.0),
        (0, 10, 0.0, 0, 1.0),
        (0, 10, 0.0, 5, 0.5),
        (0, 10, 0.5, 5, 0.75),
        (4, 10, 0.2, 4, 1.0),
        (4, 10, 0.2, 9, 0.6),
        (4, 10, 0.2, 14, 0.2),
        (4, 10, 0.2, 10**6, 0.2),
        (0, 10, 1.0, 7, 1.0),
    ],
)
def test_warmup_cosine(warmup, decay, ratio, age, expected):
    """Linear to 1 over the warm-up, then a half cosine to the ratio; each phase may be absent."""
    hparams = {"warmup_steps": warmup, "decay_steps": decay, "final_lr_ratio": ratio}
    tensors = {name: torch.tensor([value], dtype=torch.float64) for name, value in hparams.items()}
    assert WarmupCosine()(torch.tensor([age]), tensors).item() == pytest.approx(expected)


def test_members_differ_freely():
    """Warm-up, decay and constant side by side."""
    hparams = {
        "warmup_steps": torch.tensor([10.0, 0.0, 0.0]).double(),
        "decay_steps": torch.tensor([0.0, 8.0, 0.0]).double(),
        "final_lr_ratio": torch.tensor([0.0, 0.0, 0.0]).double(),
    }
    multipliers = WarmupCosine()(torch.tensor([4, 4, 4]), hparams)
    assert multipliers.tolist() == pytest.approx([0.5, 0.5, 1.0])


def test_constant():
    """1, whatever the age."""
    assert Constant()(torch.tensor([0, 99]), {}).tolist() == [1.0, 1.0]
