"""Peaks of devices, and what memory members and processes take."""

import re
from pathlib import Path

import pytest
import torch

from trainables import Place
from trainables.core.telemetry import PEAKS, peak_flops, published_peak, take_peak_memory
from trainables.language import Language

STATUS = Path("/proc/self/status")


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "tf32", 156),
        ("NVIDIA H100 80GB HBM3", "fp32", 66.9),
        ("NVIDIA H100 PCIe", "bf16", 756.5),
        ("NVIDIA H200", "bf16", 989.4),
        ("Tesla V100-SXM2-16GB", "fp32", 15.7),
        ("Tesla T4", "fp32", 8.1),
        ("NVIDIA L4", "bf16", 121),
    ],
)
def test_peaks_are_found_by_the_name_that_cuda_gives(name, precision, teraflops):
    """With the maker's name or without, dense, by precision."""
    expected = pytest.approx(teraflops * 1e12, rel=1e-12)
    assert published_peak(name, precision) == expected
    assert published_peak(name.split(maxsplit=1)[1], precision) == expected


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
        ("NVIDIA L40", "bf16"),
        ("Tesla T4", "bf16"),
        ("Tesla V100-SXM2-16GB", "tf32"),
        ("NVIDIA A100-SXM4-80GB", "fp8"),
    ],
    ids=["a share", "a variant", "a relative", "no bf16", "no tf32", "another precision"],
)
def test_a_peak_that_is_not_on_file_is_none(name, precision):
    """A wrong peak would be worse than none."""
    assert published_peak(name, precision) is None


def test_peaks_rise_with_less_precision():
    """As far as a GPU has the format: tensor cores are no slower, and bf16 is twice as fast as tf32."""
    for name, peak in PEAKS.items():
        if peak.tf32 is None or peak.bf16 is None:
            assert (peak.tf32, peak.bf16) == (None, None), name
            continue
        assert peak.fp32 <= peak.tf32, name
        assert peak.bf16 == pytest.approx(2 * peak.tf32, rel=0.03), name


@pytest.mark.parametrize("place", [Place(device="cpu"), Place(device="cpu", dtype="float64")])
def test_a_cpu_has_no_peak(place):
    """None is published."""
    assert peak_flops(place) is None


@pytest.mark.gpu
def test_a_gpu_has_the_peak_of_its_name():
    """Or none, if it is not on file; in float64 never."""
    expected = published_peak(torch.cuda.get_device_name(0), "fp32")
    assert peak_flops(Place(device="cuda:0")) == expected
    assert peak_flops(Place(device="cuda:0", dtype="float64")) is None


@pytest.mark.skipif(not STATUS.exists(), reason="/proc is Linux's")
def test_a_process_held_at_least_what_it_holds():
    """The highest so far, in bytes: no less than what is resident with 64 MB of new numbers."""
    numbers = torch.ones(2**24)
    resident = 1024 * int(re.search(r"^VmRSS:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)[1])
    held = take_peak_memory("cpu")
    assert numbers.nbytes < resident <= held + 2**20 < 2**50


@pytest.mark.parametrize(("optimizer", "moments"), [("sgd", 1), ("adamw", 2)])
@pytest.mark.parametrize("capacity", [1, 3])
def test_a_member_weighs_what_its_state_holds(optimizer, moments, capacity):
    """Its parameters and moments in float32, and four counters of 8 bytes; whatever the capacity."""
    model = Language(width=16, depth=1, heads=2, context=8, batch=2, optimizer=optimizer)
    stack = model.build(model.bucket({}), capacity, Place(compile="never"))
    stack.admit(0, {}, seed=1)
    shards = stack.state(0).shards
    num_parameters = sum(shard.tensor.numel() for shard in shards if shard.name.startswith("params."))
    assert stack.member_bytes() == 4 * num_parameters * (1 + moments) + 4 * 8
    assert stack.member_bytes() == sum(shard.tensor.nbytes for shard in shards) + 3 * 8  # with age, consumed and seed
