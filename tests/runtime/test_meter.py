"""Energy of GPUs, on an NVML that is made up."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt.runtime import meter
from pbt.runtime.meter import Gauge, NoMeter, PackageMeter, PowerMeter, can_measure, meter_for, open_nvml
from tests.examples import examples


class NVMLError(Exception):
    """As pynvml's."""


class Board:
    """A GPU: millijoules since its driver was loaded, milliwatts now; None where it does not tell."""

    def __init__(self, uuid, millijoules=None, milliwatts=None, mig=None):
        self.uuid, self.millijoules, self.milliwatts, self.mig = uuid, millijoules, milliwatts, mig


def _told(value):
    if value is None:
        raise NVMLError("Not Supported")
    return value


class Nvml:
    """What is used of the module `pynvml`."""

    NVMLError = NVMLError

    def __init__(self, *boards):
        self.boards = boards

    def nvmlDeviceGetCount(self):
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.boards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        for board in self.boards:
            if board.uuid == uuid:
                return board
        raise NVMLError("Not Found")

    def nvmlDeviceGetMigMode(self, board):
        return [_told(board.mig), board.mig]

    def nvmlDeviceGetTotalEnergyConsumption(self, board):
        return _told(board.millijoules)

    def nvmlDeviceGetPowerUsage(self, board):
        return _told(board.milliwatts)


@pytest.fixture
def two():
    """Two GPUs with counters, as NVML counts them; CUDA counts them the other way round."""
    nvml = Nvml(Board("GPU-a", millijoules=1_000_000), Board("GPU-b", millijoules=2_000_000, mig=0))
    cuda = {"cuda": "GPU-b", "cuda:0": "GPU-b", "cuda:1": "GPU-a"}
    return nvml, cuda.__getitem__


def clock(*times):
    return iter(times).__next__


# --- the counter


@pytest.mark.parametrize(("device", "board"), [("cuda", 1), ("cuda:0", 1), ("cuda:1", 0)])
def test_a_device_is_found_by_its_uuid(two, device, board):
    """CUDA's numbers are not NVML's."""
    nvml, uuid = two
    found = meter_for(device, nvml, uuid)
    assert found.joules() == 0.0
    nvml.boards[board].millijoules += 1500
    nvml.boards[1 - board].millijoules += 10**9
    assert found.joules() == 1.5


def test_joules_are_counted_from_when_the_meter_was_made(two):
    """What the GPU used before is not ours."""
    nvml, uuid = two
    first = meter_for("cuda:1", nvml, uuid)
    nvml.boards[0].millijoules += 2000
    second = meter_for("cuda:1", nvml, uuid)
    nvml.boards[0].millijoules += 500
    assert (first.joules(), second.joules()) == (2.5, 0.5)


def test_a_counter_that_falls_silent_is_not_known(two):
    """A lost GPU gives None, not 0 and not the last value."""
    nvml, uuid = two
    found = meter_for("cuda:1", nvml, uuid)
    nvml.boards[0].millijoules = None
    assert found.joules() is None


# --- power samples


def test_power_is_integrated_by_trapezoids():
    """100 W to 300 W over 2 s, then 300 W for 1 s: 400 J, then 700 J."""
    board = Board("GPU-a", milliwatts=100_000)
    found = PowerMeter(Nvml(board), board, clock(10.0, 12.0, 13.0))
    board.milliwatts = 300_000
    assert found.joules() == 400.0
    assert found.joules() == 700.0


@examples(50)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 10**6)), max_size=20))
def test_energy_never_falls(samples):
    """Whatever the power, and however irregular the samples; at most the highest power all the time."""
    board = Board("GPU-a", milliwatts=0)
    times = [0]
    for gap, _ in samples:
        times.append(times[-1] + gap)
    found = PowerMeter(Nvml(board), board, clock(*map(float, times)))
    joules = [0.0]
    for _, milliwatts in samples:
        board.milliwatts = milliwatts
        joules.append(found.joules())
    assert sorted(joules) == joules
    highest = max((milliwatts for _, milliwatts in samples), default=0) / 1000
    assert joules[-1] <= highest * times[-1] * (1 + 1e-9)


def test_a_missing_sample_makes_the_sum_unknown():
    """The gap cannot be filled, so it stays unknown when power can be read again."""
    board = Board("GPU-a", milliwatts=100_000)
    found = PowerMeter(Nvml(board), board, clock(*map(float, range(9))))
    board.milliwatts = None
    assert found.joules() is None
    board.milliwatts = 100_000
    assert found.joules() is None


def test_a_gpu_without_counter_is_sampled_while_anybody_holds_the_meter(monkeypatch):
    """A thread takes samples though nobody asks, and ends with the meter."""
    monkeypatch.setattr(meter, "_SAMPLE_S", 0.0)
    board, sampled = Board("GPU-a", milliwatts=100_000), threading.Semaphore(0)

    class Counting(Nvml):
        def nvmlDeviceGetPowerUsage(self, board):
            sampled.release()
            return super().nvmlDeviceGetPowerUsage(board)

    before = set(threading.enumerate())
    found = meter_for("cuda", Counting(board), lambda _: "GPU-a")
    assert isinstance(found, PowerMeter)
    (thread,) = set(threading.enumerate()) - before
    assert all(sampled.acquire(timeout=30) for _ in range(10))
    assert found.joules() > 0.0
    del found
    thread.join(30)
    assert not thread.is_alive()


# --- processor packages


def zone(folder, number, name="package-0", microjoules=0, size=1000):
    """A counter as Linux shows it."""
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True, exist_ok=True)
    for file, content in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", size)):
        (path / file).write_text(f"{content}\n")
    return path


def packages(zones, busy, own):
    return PackageMeter(zones, clock(*map(float, busy)), clock(*map(float, own)))


def test_packages_are_summed_and_shared_by_busy_time(tmp_path):
    """3 J and 5 J, the process had 2 of 4 busy seconds: 4 J; then all of 8 J, and nothing of 11 J."""
    zones = [zone(tmp_path, number, f"package-{number}", 10**6, 10**9) for number in range(2)]
    found = packages(zones, busy=[10, 14, 16, 19], own=[1, 3, 5, 5])
    told = []
    for first, second in ((4, 6), (8, 10), (9, 20)):
        zone(tmp_path, 0, "package-0", first * 10**6, 10**9)
        zone(tmp_path, 1, "package-1", second * 10**6, 10**9)
        told.append(found.joules())
    assert told == [4.0, 12.0, 12.0]


def test_a_counter_that_began_again_goes_on(tmp_path):
    """From 900 over the end at 1000 to 150: 250 microjoules."""
    found = packages([zone(tmp_path, 0, microjoules=900)], busy=[0, 1], own=[0, 1])
    zone(tmp_path, 0, microjoules=150)
    assert found.joules() == 250 / 1e6


def test_energy_waits_for_the_clock_of_busy_time(tmp_path):
    """It ticks in hundredths of a second: what is used between two ticks is shared at the second."""
    found = packages([zone(tmp_path, 0)], busy=[5, 5, 6], own=[0, 0.005, 0.5])
    zone(tmp_path, 0, microjoules=600)
    assert found.joules() == 0.0
    zone(tmp_path, 0, microjoules=800)
    assert found.joules() == 400 / 1e6


@examples(50)
@given(st.lists(st.tuples(st.integers(0, 9**9), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=9))
def test_processes_together_take_no_more_than_there_was(tmp_path_factory, steps):
    """Two processes and others on the same packages, whenever they look: no joule is counted twice."""
    folder = tmp_path_factory.mktemp("powercap")
    used, mine, others = 0, [0], [0]
    for _, own, other in steps:
        mine.append(mine[-1] + own)
        others.append(others[-1] + other)
    busy = [a + b + 1 for a, b in zip(mine, others, strict=True)]
    meters = [packages([zone(folder, 0, size=10**12)], busy, own) for own in (mine, others)]
    for microjoules, _, _ in steps:
        used += microjoules
        zone(folder, 0, microjoules=used, size=10**12)
        joules = [found.joules() for found in meters]
    assert sum(joules) <= used / 1e6 * (1 + 1e-9)


def test_parts_of_a_package_and_the_whole_machine_are_left_out(tmp_path):
    """Cores are within their package, psys is more than packages: each joule once."""
    zone(tmp_path, 0), zone(tmp_path, "0:0", "core"), zone(tmp_path, 1, "psys"), zone(tmp_path, 2, "package-1-die-0")
    found = meter_for("cpu", powercap=tmp_path)
    assert [path.name for path in found._zones] == ["intel-rapl:0", "intel-rapl:2"]


def test_without_readable_counters_a_cpu_tells_nothing(tmp_path):
    """No folder, no packages in it, or counters for the administrator only."""
    assert isinstance(meter_for("cpu", powercap=tmp_path / "missing"), NoMeter)
    zone(tmp_path, 0, "psys")
    assert isinstance(meter_for("cpu", powercap=tmp_path), NoMeter)
    counter = zone(tmp_path, 1) / "energy_uj"
    counter.unlink()
    counter.mkdir()  # cannot be read, not even by the administrator
    assert isinstance(meter_for("cpu", powercap=tmp_path), NoMeter)


def test_a_package_that_falls_silent_is_not_known_any_more(tmp_path):
    """What was missed cannot be filled in."""
    found = packages([zone(tmp_path, 0)], busy=[0, 1, 2], own=[0, 1, 2])
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    assert found.joules() is None
    zone(tmp_path, 0, microjoules=5)
    assert found.joules() is None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/stat is Linux's")
def test_the_machine_is_busy_at_least_as_long_as_this_process():
    """Seconds of processor time: the machine's pass with one's own, to the tick of either clock."""
    began, own = meter._busy_s(), time.process_time()
    while time.process_time() - own < 0.3:
        pass
    assert meter._busy_s() - began > 0.2


# --- where energy cannot be told


@pytest.mark.parametrize(
    ("device", "board"),
    [
        ("cpu", Board("GPU-a", millijoules=1)),
        ("cuda", Board("GPU-a")),
        ("cuda", Board("GPU-a", millijoules=1, milliwatts=1, mig=1)),
        ("cuda", Board("GPU-of-another-machine", millijoules=1)),
    ],
    ids=["a CPU", "neither counter nor power", "a share of a GPU", "not NVML's"],
)
def test_where_energy_cannot_be_told_it_is_none(device, board, tmp_path):
    """Never 0, never a guess."""
    found = meter_for(device, Nvml(board), lambda _: "GPU-a", tmp_path)
    assert found.joules() is None


@pytest.mark.parametrize(
    ("boards", "can"),
    [
        ([], False),
        ([Board("a", millijoules=1), Board("b", milliwatts=1, mig=0)], True),
        ([Board("a", millijoules=1), Board("b")], False),
        ([Board("a", millijoules=1, mig=1)], False),
    ],
)
def test_energy_can_be_measured_if_every_gpu_tells(boards, can):
    """A limit on energy is kept on all GPUs or on none."""
    assert can == can_measure(Nvml(*boards))


def test_without_the_package_nothing_is_measured(monkeypatch):
    """nvidia-ml-py is optional."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml() is None
    assert isinstance(meter_for("cuda"), NoMeter)
    assert not can_measure()


def test_without_a_driver_nothing_is_measured(monkeypatch):
    """The package alone does not help."""

    def fail():
        raise NVMLError("NVML Shared Library Not Found")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError, nvmlInit=fail))
    assert open_nvml() is None


def test_with_package_and_driver_nvml_is_opened(monkeypatch):
    """And initialised, once for each asking; NVML counts."""
    calls = []
    nvml = SimpleNamespace(NVMLError=NVMLError, nvmlInit=lambda: calls.append("init"))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert open_nvml() is nvml
    assert calls == ["init"]


def test_the_made_up_nvml_is_like_the_real_one():
    """Every function used is there under its name."""
    real = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    names = [name for name in vars(Nvml) if name.startswith("nvml")]
    assert [name for name in names if not callable(getattr(real, name, None))] == []
    assert issubclass(real.NVMLError, Exception)


@pytest.mark.gpu
def test_a_gpu_at_work_uses_energy():
    """On the real device, if its energy can be read: half a second of matrix products takes some joules."""
    import torch

    found = meter_for("cuda")
    if found.joules() is None:
        pytest.skip("the energy of this GPU cannot be read")
    x = torch.randn(2048, 2048, device="cuda")
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        x = torch.tanh(x @ x)
        torch.cuda.synchronize()
    assert 1.0 < found.joules() < 2000.0


# --- shared by stacks


class Given:
    """A meter that reads what it is told to."""

    def __init__(self, *readings):
        self.joules = clock(*readings)


def test_a_gauge_gives_each_joule_once():
    """Whoever asks gets what was used since anybody asked."""
    gauge = Gauge(Given(2.0, 5.0, 5.0, 9.0))
    assert [3.0, 0.0, 4.0] == [gauge.take() for _ in range(3)]


def test_a_gap_is_caught_up_with():
    """What was used while energy could not be read is in the next answer."""
    gauge = Gauge(Given(2.0, None, 9.0))
    assert [None, 7.0] == [gauge.take() for _ in range(2)]


def test_a_gauge_that_reads_nothing_takes_nothing():
    """None stays None."""
    assert Gauge(NoMeter()).take() is None


class Busy:
    """A meter that takes its time, and notes how many threads read it at once."""

    def __init__(self):
        self.inside = self.most = 0

    def joules(self):
        self.inside += 1
        self.most = max(self.most, self.inside)
        threading.Event().wait(0.005)
        self.inside -= 1
        return 1.0


def test_threads_ask_one_after_another():
    """Else the slower of two would be given less than nothing."""
    busy = Busy()
    gauge = Gauge(busy)
    with ThreadPoolExecutor(4) as executor:
        assert [0.0] * 8 == list(executor.map(lambda _: gauge.take(), range(8)))
    assert busy.most == 1
