"""`pbt run` that starts a Ray of its own is told to end from outside, with all processes of its group, or killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

import pbt
from pbt.spec import to_dict
from tests.integration.nodes import num_generations
from tests.integration.test_resume import only_run
from tests.integration.toys import sweep

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What must come of it."""
    return sweep(tmp_path_factory.mktemp("undisturbed"), "local").run(progress=False)


@contextmanager
def running(storage):
    """`pbt run` in a process group of its own, some generations old, and what it prints."""
    told, spec = storage / "told", storage / "sweep.yaml"
    spec.write_text(yaml.safe_dump(to_dict(sweep(storage, "ray").spec)))
    command = [sys.executable, "-c", "from pbt.cli import main; main()", "run", str(spec)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with open(told, "wb") as out:
        driver = subprocess.Popen(command, env=environment, stdout=out, stderr=out, process_group=0)
    try:
        while num_generations(storage) < 6:
            assert driver.poll() is None, told.read_text()
            time.sleep(0.1)
        yield driver, told
    finally:
        driver.kill()
        driver.wait()


def processes():
    """All processes that there are: number and start, parent's number, command line."""
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                state, parent, *rest = (process / "stat").read_text().rsplit(")", 1)[1].split()
                if state != "Z":
                    found[int(process.name), rest[17]] = int(parent), (process / "cmdline").read_text()
    return found


def family(ancestor):
    """Processes that descend from one, and their command lines."""
    everybody = processes()
    known, found = {ancestor}, {}
    for _ in everybody:
        children = {key: line for key, (parent, line) in everybody.items() if parent in known and key not in found}
        if not children:
            break
        found |= children
        known = {number for number, _ in children}
    return found


def session_folder(found):
    """The folder of session files that processes were started with."""
    (folder,) = {match for line in found.values() for match in re.findall(r"=(/[^=\0]*?/pbt-ray-\w+)/", line)}
    return Path(folder)


def assert_gone(found, seconds):
    """None of the processes is left."""
    until = time.monotonic() + seconds
    while left := found.keys() & processes().keys():
        assert time.monotonic() < until, [found[key] for key in left]
        time.sleep(0.1)


def assert_nothing_is_trained_again(storage, undisturbed):
    """What was recorded was saved; the rest is trained, and it ends as if nothing had happened."""
    run = only_run(storage)
    stopped = pbt.load(run)
    assert "stopped" == stopped.status
    last = {row["member"]: row["segment"] for row in stopped.rows["outcomes"]}
    assert 7 == len(last)
    saved = {(row["member"], row["segment"]) for row in stopped.rows["checkpoints"] if row["status"] == "saved"}
    assert last.items() <= saved
    result = pbt.resume(run, progress=False, hosts={"kind": "local"})
    assert undisturbed.digest() == result.digest()
    # Before the stop a host that came late may have been given a stack.
    (taken_up,) = result.rows["incidents"][len(stopped.rows["incidents"]) :]
    assert "recovered" == taken_up["kind"]
    assert taken_up["message"].endswith("loaded from checkpoints")


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_its_whole_group_is_told_to_end(tmp_path, undisturbed, number):
    """Ray lives until everybody is saved; nothing is left of it."""
    with running(tmp_path) as (driver, told):
        found = family(driver.pid)
        os.killpg(driver.pid, number)
        assert 130 == driver.wait(timeout=180), told.read_text()
    assert "stopped; every member is saved. Go on with `pbt resume" in told.read_text()
    assert not session_folder(found).exists()
    assert_gone(found, seconds=10)
    assert_nothing_is_trained_again(tmp_path, undisturbed)


@pytest.mark.full
def test_the_driver_is_killed(tmp_path, undisturbed):
    """Ray dies with it, and its folder goes when the next is started; the run can be taken up."""
    with running(tmp_path) as (driver, _):
        found = family(driver.pid)
        driver.kill()
        assert -signal.SIGKILL == driver.wait()
    trains = {key: line for key, line in found.items() if "Agent" not in line}
    assert len(trains) >= 5
    assert_gone(trains, seconds=10)
    result = pbt.resume(only_run(tmp_path), progress=False)
    assert undisturbed.digest() == result.digest()
    assert_gone(found, seconds=120)  # its agents wait a minute for the rest to come back
    assert not session_folder(found).exists()
