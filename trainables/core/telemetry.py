"""What only the device can tell of throughput and memory: how fast it could be at best, and what was taken of it.

Model FLOPs are what a trainable says its forward and backward pass ask for (`Capabilities.flops_per_step`); their rate
over the peak of the device is the model FLOPs utilization, MFU. What kernels compute again counts for nothing.

Source: Chowdhery et al. 2022 (PaLM, arXiv 2204.02311), appendix B: observed throughput over that of a system at its
peak, where only what forward and backward pass need counts, and no rematerialization.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from trainables.base import Place


@dataclass(frozen=True, slots=True)
class Peak:
    """Published peaks of a GPU, in FLOP/s, of dense operations: what sparsity would add is left out.

    Attributes:
        fp32: Outside the tensor cores.
        tf32: In the tensor cores; None on a GPU without TF32.
        bf16: In the tensor cores, summed in float32; None on a GPU without bfloat16.
    """

    fp32: float
    tf32: float | None = None
    bf16: float | None = None


_A100 = Peak(19.5e12, 156e12, 312e12)
_H100_SXM = Peak(66.9e12, 494.7e12, 989.4e12)
_V100_SXM2, _V100_PCIE = Peak(15.7e12), Peak(14e12)

#: Peaks by the name CUDA gives a whole GPU, without its maker. A name must be equal: of a GPU's variants (PCIe, laptop,
#: a share by MIG) each has a peak of its own, and a wrong one would be worse than none.
#:
#: Source: NVIDIA's datasheets of V100 (1165301), T4 (951643), A100 (1758950), H100, H200, L4, L40S and HGX B200; for
#: the GeForce the whitepaper of the Ada architecture. Where only the figure with sparsity is given, its half.
PEAKS: Mapping[str, Peak] = MappingProxyType(
    {
        "V100-SXM2-16GB": _V100_SXM2,
        "V100-SXM2-32GB": _V100_SXM2,
        "V100-PCIE-16GB": _V100_PCIE,
        "V100-PCIE-32GB": _V100_PCIE,
        "T4": Peak(8.1e12),
        "A100-SXM4-40GB": _A100,
        "A100-SXM4-80GB": _A100,
        "A100-PCIE-40GB": _A100,
        "A100 80GB PCIe": _A100,
        "H100 80GB HBM3": _H100_SXM,
        "H100 PCIe": Peak(51e12, 378e12, 756.5e12),
        "H200": _H100_SXM,
        "L4": Peak(30.3e12, 60e12, 121e12),
        "L40S": Peak(91.6e12, 183e12, 362.05e12),
        "GeForce RTX 4090": Peak(82.6e12, 82.6e12, 165.2e12),
        "B200": Peak(75e12, 1.1e15, 2.25e15),
    }
)


def published_peak(name: str, precision: str) -> float | None:
    """Peak of a GPU in FLOP/s; None where it is not on file.

    Args:
        name: The GPU's name as CUDA tells it, such as `NVIDIA H100 PCIe`.
        precision: `fp32`, `tf32` or `bf16`.
    """
    peak = PEAKS.get(name.removeprefix("NVIDIA ").removeprefix("Tesla "))
    found: float | None = getattr(peak, precision, None)
    return found


def peak_flops(place: Place) -> float | None:
    """Peak of a place's device in its precision, in FLOP/s; None on a CPU, in float64, and where it is not on file."""
    if torch.device(place.device).type != "cuda" or place.dtype != "float32":
        return None
    return published_peak(torch.cuda.get_device_name(torch.device(place.device)), place.precision)


def take_peak_memory(device: str) -> int | None:
    """The most memory this process has held, in bytes.

    On CUDA: what its tensors held of the device since this was last asked, or since the process began; the pool that
    torch keeps for later tensors is not counted. Elsewhere: of the machine's memory, everything the process held at
    once since it began, code and libraries included. None where the system does not tell.
    """
    where = torch.device(device)
    if where.type == "cuda":
        held = int(torch.cuda.max_memory_allocated(where))
        torch.cuda.reset_peak_memory_stats(where)
        return held
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else 1024 * held  # macOS counts bytes, others kibibytes
