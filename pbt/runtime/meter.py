"""The energy of the device a stack works on.

Read from NVML (the optional package nvidia-ml-py, loaded when first needed): the GPU's own counter, or where it has
none (before Volta) the sum of power samples. The counter is brought up to date some ten times a second: short turns
are measured coarsely, their sum is right. Both count the whole board, waiting included.

Where energy cannot be told, the answer is None, never 0 and never a guess:

* without nvidia-ml-py or an NVIDIA driver;
* on a share of a GPU (MIG), whose counter counts the neighbours too;
* on a CPU. Its counter (RAPL) counts the whole package, whoever works on it, and is kept from ordinary users; the
  limit `budget.joules` speaks of GPUs.
"""

from __future__ import annotations

import importlib
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

#: Seconds between two samples of a GPU's power.
_SAMPLE_S = 0.1


class Meter(Protocol):
    """Counts the energy of one device."""

    def joules(self) -> float | None:
        """Energy since the meter was made, never falling; None where it cannot be read."""


def meter_for(device: str, nvml: Any = None, uuid: Callable[[str], str] | None = None) -> Meter:
    """The meter of a torch device; made by the process that trains on it, as it asks CUDA which GPU that is.

    Args:
        device: A torch device string.
        nvml: Stands in for the module `pynvml`, initialised; None loads it.
        uuid: Stands in for asking CUDA for a device's UUID.
    """
    nvml = (nvml or open_nvml()) if device.partition(":")[0] == "cuda" else None
    if nvml is None:
        return NoMeter()
    try:
        return _meter(nvml, nvml.nvmlDeviceGetHandleByUUID((uuid or _uuid)(device)))
    except nvml.NVMLError:
        return NoMeter()


def can_measure(nvml: Any = None) -> bool:
    """Whether the energy of every GPU of this machine can be read. Leaves CUDA alone.

    Args:
        nvml: Stands in for the module `pynvml`, initialised; None loads it.
    """
    nvml = nvml or open_nvml()
    if nvml is None:
        return False
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return bool(handles) and all(_is_whole(nvml, handle) and _reading(nvml, handle) for handle in handles)
    except nvml.NVMLError:
        return False


def open_nvml() -> Any | None:
    """The module `pynvml`, initialised; None without it or without a driver."""
    try:
        nvml = importlib.import_module("pynvml")
    except (ImportError, OSError):
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


class Gauge:
    """Joules since it was last asked, whoever asked: shared by the stacks on a device, so that none counts twice.

    Args:
        meter: The device's meter.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = threading.Lock()
        self._last = meter.joules()

    def take(self) -> float | None:
        """Joules since the last time they could be read; None where they cannot be now."""
        with self._lock:
            now = self._meter.joules()
            if now is None:
                return None
            taken, self._last = now - (self._last or 0.0), now
            return taken


class NoMeter:
    """The meter of a device whose energy cannot be read."""

    def joules(self) -> None:
        """Never known."""
        return


class CounterMeter:
    """A GPU's own counter, in millijoules since its driver was loaded.

    Args:
        nvml: The module `pynvml`, initialised.
        handle: NVML's handle of the GPU.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._first: int = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)

    def joules(self) -> float | None:
        """Energy since the meter was made."""
        try:
            now: int = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError:
            return None
        return (now - self._first) / 1000.0


class PowerMeter:
    """The integral of power samples by the trapezoidal rule; between samples power is taken to change evenly.

    Args:
        nvml: The module `pynvml`, initialised.
        handle: NVML's handle of the GPU.
        clock: Seconds.
    """

    def __init__(self, nvml: Any, handle: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml, self._handle, self._clock = nvml, handle, clock
        self._lock = threading.Lock()
        self._joules: float | None = 0.0
        self._at, self._watts = clock(), self._power()

    def start(self) -> PowerMeter:
        """Take samples from now on, as long as anybody holds the meter; a thread of its own does."""
        threading.Thread(target=_keep_sampling, args=[weakref.ref(self)], name="power-meter", daemon=True).start()
        return self

    def joules(self) -> float | None:
        """Energy since the meter was made; None once a sample could not be taken, as the gap cannot be filled."""
        with self._lock:
            if self._joules is None:
                return None
            try:
                now, watts = self._clock(), self._power()
            except self._nvml.NVMLError:
                self._joules = None
                return None
            self._joules += (now - self._at) * (self._watts + watts) / 2.0
            self._at, self._watts = now, watts
            return self._joules

    def _power(self) -> float:
        milliwatts: int = self._nvml.nvmlDeviceGetPowerUsage(self._handle)
        return milliwatts / 1000.0


def _keep_sampling(meter: weakref.ref[PowerMeter]) -> None:
    """Until the meter is gone, or a sample is missing."""
    while (found := meter()) is not None and found.joules() is not None:
        del found
        time.sleep(_SAMPLE_S)


def _meter(nvml: Any, handle: Any) -> Meter:
    reading = _reading(nvml, handle) if _is_whole(nvml, handle) else None
    if reading == "counter":
        return CounterMeter(nvml, handle)
    return PowerMeter(nvml, handle).start() if reading == "power" else NoMeter()


def _reading(nvml: Any, handle: Any) -> str | None:
    """What a GPU tells of its energy: `counter`, `power` or nothing."""
    for name, ask in (("counter", nvml.nvmlDeviceGetTotalEnergyConsumption), ("power", nvml.nvmlDeviceGetPowerUsage)):
        try:
            ask(handle)
        except nvml.NVMLError:
            continue
        return name
    return None


def _is_whole(nvml: Any, handle: Any) -> bool:
    """Whether a GPU is not divided among several users (MIG)."""
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # a GPU that cannot be divided
        return True
    return not current


def _uuid(device: str) -> str:
    """NVML's name of a torch device. CUDA's numbers are not NVML's: `CUDA_VISIBLE_DEVICES` and speed order them."""
    import torch

    found = str(torch.cuda.get_device_properties(torch.device(device)).uuid)
    return found if found.startswith(("GPU-", "MIG-")) else f"GPU-{found}"
