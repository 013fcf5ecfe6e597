"""What nodes do: watched by each process, told of once."""

import threading
from collections import namedtuple
from types import SimpleNamespace

import pytest

from pbt.runtime import nodes
from pbt.runtime.nodes import NodeMonitor, Nodes
from pbt.runtime.orders import NodeReading, Reading
from pbt.runtime.telemetry import Telemetry, together
from tests.runtime.test_meter import Board, Nvml
from trainables import Place

Times = namedtuple("Times", "user system idle iowait guest")


class Machine:
    """A machine that is made up: what psutil says of it, and the time."""

    def __init__(self):
        self.now, self.times = 100.0, Times(10.0, 5.0, 80.0, 5.0, 1.0)
        self.memory = SimpleNamespace(total=8e9, available=6e9)
        self.network = SimpleNamespace(bytes_recv=10**9, bytes_sent=10**6)

    def clock(self):
        return self.now

    def cpu_times(self):
        return self.times

    def virtual_memory(self):
        return self.memory

    def net_io_counters(self):
        return self.network


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(nodes, "psutil", made)
    return made


class Gpu(Board):
    """A GPU that tells of its use and memory, too."""

    percent = 0

    def __init__(self, *args, **known):
        super().__init__(*args, **known)
        self.memory = SimpleNamespace(used=20e9, total=80e9)


class Driver(Nvml):
    def nvmlDeviceGetUtilizationRates(self, board):
        if board.percent is None:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(gpu=board.percent)

    def nvmlDeviceGetMemoryInfo(self, board):
        return board.memory


def monitor(machine, tmp_path, nvml=None):
    return NodeMonitor("a", nvml or Driver(), tmp_path, machine.clock)


# --- what a process sees of its node


def test_processors_and_network_are_told_of_the_time_since_the_last_reading(machine, tmp_path):
    """4 of 16 processor-seconds idle, or waiting for a disk; what guests used is among what users did."""
    watching = monitor(machine, tmp_path)
    machine.now += 8.0
    machine.times = Times(20.0, 7.0, 83.0, 6.0, 5.0)
    machine.network = SimpleNamespace(bytes_recv=10**9 + 16 * 10**6, bytes_sent=5 * 10**6)
    found = watching.take()
    assert found.node == "a"
    assert found.values == {
        "cpu_utilization_percentage": pytest.approx(100.0 * 12.0 / 16.0),
        "system_memory_usage_megabytes": 2000.0,
        "system_memory_usage_percentage": 25.0,
        "network_receive_megabytes_per_second": 2.0,
        "network_transmit_megabytes_per_second": 0.5,
    }


def test_what_has_no_counter_is_the_mean_of_samples(machine, tmp_path):
    """As it may be at its least just when a segment ends."""
    gpu = Gpu("GPU-a")
    watching = monitor(machine, tmp_path, Driver(gpu))
    for gpu.percent, free in ((100, 4e9), (80, 4e9)):
        machine.memory.available = free
        watching.sample()
    gpu.percent, machine.memory.available, machine.now = 0, 7e9, 110.0
    found = watching.take().values
    assert found["gpu_0_utilization_percentage"] == 60.0
    assert found["system_memory_usage_megabytes"] == pytest.approx(3000.0)
    assert (found["gpu_0_memory_usage_megabytes"], found["gpu_0_memory_usage_percentage"]) == (20_000.0, 25.0)
    gpu.percent, machine.now = 30, 130.0
    assert watching.take().values["gpu_0_utilization_percentage"] == 30.0, "samples are of one reading"


def test_power_is_energy_over_time(machine, tmp_path):
    """Of each GPU by itself, as its own counter has it."""
    first, second = Gpu("GPU-a", millijoules=1_000_000), Gpu("GPU-b", millijoules=0)
    watching = monitor(machine, tmp_path, Driver(first, second))
    machine.now, first.millijoules, second.millijoules = 110.0, 4_000_000, 500_000
    found = watching.take().values
    assert (found["gpu_0_power_usage_watts"], found["gpu_1_power_usage_watts"]) == (300.0, 50.0)


def test_all_processors_count_whoever_they_work_for(machine, tmp_path, monkeypatch):
    """A member's energy is its share of the packages'; a node's is all of it."""
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "1000000000"), ("energy_uj", "0")):
        (zone / name).write_text(text)
    stat = tmp_path / "stat"
    stat.write_text("cpu 0 0 0 0 0 0 0 0\n")
    monkeypatch.setattr("pbt.runtime.meter._STAT", stat)
    watching = monitor(machine, tmp_path)
    machine.now = 110.0
    (zone / "energy_uj").write_text("600000000")
    stat.write_text("cpu 4000 0 0 0 0 0 0 0\n")
    assert watching.take().values["cpu_power_usage_watts"] == pytest.approx(60.0)


def test_what_is_not_told_is_left_out(machine, tmp_path):
    """A GPU that is divided, a counter that began anew, a machine without network: no zero, no guess."""
    divided = Gpu("GPU-a", mig=1, millijoules=5)
    divided.percent = None
    watching = monitor(machine, tmp_path, Driver(divided))
    machine.now, machine.network = 110.0, None
    machine.times = Times(0.0, 0.0, 1.0, 0.0, 0.0)
    assert watching.take().values.keys() == {
        "system_memory_usage_megabytes",
        "system_memory_usage_percentage",
        "gpu_0_memory_usage_megabytes",
        "gpu_0_memory_usage_percentage",
    }


def test_readings_are_ten_seconds_apart(machine, tmp_path):
    """The first is there as soon as it is asked for."""
    watching = monitor(machine, tmp_path)
    taken = []
    for machine.now in (100.0, 101.0, 105.0, 110.9, 111.0, 130.0, 139.0, 140.0):
        taken.append(watching.take() is not None)
    assert taken == [False, True, False, False, True, True, False, True]


def test_nobody_watches_for_a_monitor_that_is_gone(machine, tmp_path, monkeypatch):
    """Its thread ends."""
    monkeypatch.setattr(nodes, "_SAMPLE_S", 0.01)
    before = set(threading.enumerate())
    watching = monitor(machine, tmp_path).start()
    (thread,) = set(threading.enumerate()) - before
    assert thread.is_alive()
    del watching
    thread.join(timeout=10.0)
    assert not thread.is_alive()


def test_this_machine_tells_of_itself():
    """With the real psutil, through a device's telemetry."""
    device = Telemetry(Place(device="cpu"), node="here")
    sum(range(10**6))
    (found,) = device.take().nodes
    assert found.node == "here"
    assert 0.0 <= found.values["cpu_utilization_percentage"] <= 100.0
    assert 0.0 < found.values["system_memory_usage_percentage"] < 100.0
    assert device.take().nodes == ()


def test_the_nodes_of_a_gang_are_all_told_of():
    """Whether their devices tell or not."""
    here, there = NodeReading(node="a", values={}), NodeReading(node="b", values={})
    assert together([Reading(nodes=(here,)), Reading(), Reading(nodes=(there,))]).nodes == (here, there)


@pytest.mark.gpu
def test_gpus_tell_of_themselves():
    """Use, memory and power, with the real NVML."""
    import torch

    watching = NodeMonitor("here")
    x = torch.randn(4096, 4096, device="cuda")
    for _ in range(50):
        x = x @ x / 64.0
    torch.cuda.synchronize()
    found = watching.take().values
    assert {"gpu_0_utilization_percentage", "gpu_0_memory_usage_megabytes"} <= found.keys()
    assert 10.0 < found["gpu_0_power_usage_watts"] < 2000.0


# --- what is recorded


def reading(node, **values):
    return NodeReading(node=node, values=values or {"x": 1.0})


def recorded(book, wall_s, *readings):
    return [(row["node"], row["name"], row["value"]) for row in book.rows(readings, wall_s)]


def test_nodes_are_numbered_as_they_are_heard_of():
    """Their names tell of a cluster, and are not recorded."""
    book = Nodes(3)
    rows = [*book.rows([reading("fffe"), reading("00ab", y=2.0)], 5.0), *book.rows([reading("fffe")], 20.0)]
    assert rows == [
        {"session": 3, "node": 0, "name": "x", "value": 1.0, "wall_s": 5.0},
        {"session": 3, "node": 1, "name": "y", "value": 2.0, "wall_s": 5.0},
        {"session": 3, "node": 0, "name": "x", "value": 1.0, "wall_s": 20.0},
    ]


def test_of_several_hosts_on_a_node_one_is_heard():
    """Whichever is first, once in some ten seconds; also if another was heard before."""
    book = Nodes(1)
    told = {seconds: len(recorded(book, seconds, reading("a"))) for seconds in (0.0, 1.0, 8.9, 9.5, 12.0, 18.6)}
    assert told == {0.0: 1, 1.0: 0, 8.9: 0, 9.5: 1, 12.0: 0, 18.6: 1}


def test_many_nodes_are_told_of_in_turn():
    """Of a hundred nodes there is one row a second, not ten."""
    book = Nodes(1)
    rows = sum(len(recorded(book, 10.0 * turn, *(reading(str(node)) for node in range(100)))) for turn in range(61))
    assert rows == 700


def test_energy_is_power_over_the_time_since_the_last_row():
    """Of the session, from its beginning; hosts that were not heard change nothing."""
    book = Nodes(1)
    assert (0, "energy_joules", 1000.0) in recorded(
        book, 10.0, reading("a", gpu_0_power_usage_watts=60.0, cpu_power_usage_watts=40.0)
    )
    assert recorded(book, 12.0, reading("a", gpu_0_power_usage_watts=1e9)) == []
    later = recorded(book, 20.0, reading("a", gpu_0_power_usage_watts=50.0), reading("b", gpu_0_power_usage_watts=1.0))
    assert (0, "energy_joules", 1500.0) in later
    assert (1, "energy_joules", 20.0) in later
    assert not [row for row in recorded(book, 30.0, reading("b")) if row[1] == "energy_joules"]
