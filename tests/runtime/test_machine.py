"""What a record says of the machine: enough to repeat a sweep, nothing of the person."""

import json
import os
import platform
import re
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pbt.runtime import machine
from pbt.runtime.local import num_cores
from pbt.runtime.machine import git_commit, hardware, software

DRIVER = (
    "NVRM version: NVIDIA UNIX {}  580.65.06  Release Build  (someone@somewhere)  Sun Jul 27\nGCC version:  gcc 12\n"
)


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A made-up /proc/driver/nvidia."""
    folder = tmp_path / "nvidia"
    folder.mkdir()
    monkeypatch.setattr(machine, "_DRIVER", folder)
    return folder


class NVMLError(Exception):
    """As pynvml's."""


def nvml(*gpus):
    """An NVML with GPUs given as (name, bytes)."""

    def memory(handle):
        if handle[1] is None:
            raise NVMLError("Not Supported")
        return SimpleNamespace(total=handle[1])

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=lambda index: gpus[index],
        nvmlDeviceGetName=lambda handle: handle[0],
        nvmlDeviceGetMemoryInfo=memory,
    )


# --- software


def test_versions_of_what_matters_are_told():
    """Those of the packages as installed, and Python's."""
    found = software()
    packages = ("pbt", "ray", "torch", "optuna", "botorch", "mlflow", "pyarrow", "numpy")
    assert {name: metadata.version(name) for name in packages} == {name: found[name] for name in packages}
    assert platform.python_version() == found["python"]
    assert torch.version.cuda == found.get("cuda")


def test_what_is_missing_is_left_out(monkeypatch, driver):
    """No package, no CUDA, no driver: no entry."""
    real = metadata.version

    def version(package):
        if package == "botorch":
            raise metadata.PackageNotFoundError
        return real(package)

    monkeypatch.setattr(machine.metadata, "version", version)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert set(software()).isdisjoint({"botorch", "cuda", "cudnn", "driver"})


@pytest.mark.parametrize("kind", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_cuda_cudnn_and_driver_are_told(monkeypatch, driver, kind):
    """CUDA's is torch's, cuDNN's that of the package torch brings, the driver's that of the kernel."""
    real = metadata.version
    monkeypatch.setattr(machine.metadata, "version", lambda p: "9.20.1" if p == "nvidia-cudnn-cu13" else real(p))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (driver / "version").write_text(DRIVER.format(kind))
    found = software()
    assert ("13.0", "9.20.1", "580.65.06") == (found["cuda"], found["cudnn"], found["driver"])


# --- hardware


def test_this_machine_is_described():
    """What this process may use, as data that can be written down."""
    found = hardware()
    assert found == json.loads(json.dumps(found))
    assert list(found) == ["cpu", "cores", "memory_bytes", "system", "gpus"]
    assert found["cpu"]
    assert num_cores() == found["cores"]
    assert 0 < found["memory_bytes"] <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found["system"].startswith(f"{platform.system()} ")


def test_neither_person_nor_machine_is_named():
    """No host name, no user name, no path."""
    told = json.dumps([hardware(), software()])
    named = {socket.gethostname(), os.environ.get("USER"), Path.home().name, Path.cwd().name} - software().keys()
    assert named.isdisjoint(re.findall(r"[^\s\"]+", told))
    assert not re.search(r'[" ]/', told)


def test_a_release_is_told_by_its_number(monkeypatch):
    """People name their own kernels."""
    monkeypatch.setattr(platform, "release", lambda: "6.18.44-secret-lab")
    assert " 6.18.44 " in hardware()["system"]
    assert "secret" not in hardware()["system"]


def test_the_cpu_is_named_by_its_model(tmp_path, monkeypatch):
    """Where the system says; else by its kind."""
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags : fpu\nmodel name\t: Some CPU @ 2 GHz\n")
    monkeypatch.setattr(machine, "_CPU_INFO", info)
    assert hardware()["cpu"] == "Some CPU @ 2 GHz"
    info.unlink()
    assert (platform.processor() or platform.machine()) == hardware()["cpu"]


@pytest.mark.parametrize(("limit", "bounds"), [("12345\n", True), ("max\n", False), (None, False)])
def test_memory_is_what_the_container_allows(tmp_path, monkeypatch, limit, bounds):
    """Where it has a limit."""
    path = tmp_path / "memory.max"
    if limit:
        path.write_text(limit)
    monkeypatch.setattr(machine, "_MEMORY_LIMIT", path)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert (12345 if bounds else there) == hardware()["memory_bytes"]


def test_gpus_are_told_by_nvml():
    """Name and memory of each, in NVML's order; no serial number, no UUID."""
    found = hardware(nvml(("A", 80), ("B", 40)))["gpus"]
    assert found == [{"name": "A", "memory_bytes": 80}, {"name": "B", "memory_bytes": 40}]


def test_without_nvml_gpus_are_told_by_cuda_if_it_was_started(monkeypatch, driver):
    """Starting it is not ours to do."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name="C", total_memory=16 + index)
    )
    broken = nvml(("A", None))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert hardware(broken)["gpus"] == [{"name": "C", "memory_bytes": 16}]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert hardware(broken)["gpus"] == []


def test_without_nvml_and_cuda_gpus_are_told_by_the_driver(driver):
    """By their names."""
    for number, name in enumerate(["NVIDIA X100", "NVIDIA Y5"]):
        folder = driver / "gpus" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {name}\nIRQ: 1\nGPU UUID: GPU-1234\n")
    expected = [{"name": name, "memory_bytes": None} for name in ("NVIDIA X100", "NVIDIA Y5")]
    assert expected == hardware(nvml(("A", None)))["gpus"]


@pytest.mark.gpu
def test_cuda_is_not_started():
    """In a fresh process: versions and hardware are told, and CUDA is still off."""
    import sys

    code = (
        "import torch; from pbt.runtime.machine import hardware, software; "
        "print(hardware(), software()); assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the commit


def git(folder, *arguments):
    """Git by itself: no settings of the person's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit, `code/a.py`."""
    folder = tmp_path / "repository"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "a.py").write_text("1\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    return folder


def test_the_commit_is_that_of_the_work_tree(repository):
    """Asked from any folder inside."""
    commit = git(repository, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert commit == git_commit(repository) == git_commit(str(repository / "code"))


@pytest.mark.parametrize("staged", [False, True])
def test_changes_are_told(repository, staged):
    """Of tracked files, staged or not; once they are committed, it is another commit."""
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "code" / "a.py").write_text("2\n")
    if staged:
        git(repository, "add", ".")
    assert f"{commit}+changes" == git_commit(repository)
    git(repository, "commit", "-q", "-a", "-m", "two")
    assert git_commit(repository) == git(repository, "rev-parse", "HEAD") != commit


def test_files_git_does_not_track_are_no_changes(repository):
    """Runs lie among them."""
    (repository / "pbt-runs").mkdir()
    (repository / "pbt-runs" / "run.json").write_text("{}")
    assert git(repository, "rev-parse", "HEAD") == git_commit(repository)


def test_the_folder_says_which_repository(repository, tmp_path, monkeypatch):
    """Git's own variables, which a hook sets, do not."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert git(repository, "rev-parse", "HEAD") == git_commit(repository)


def test_no_commit_without_one(tmp_path):
    """Outside a repository, before its first commit, in its inner folder, in no folder at all, under no name."""
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init", "-q")
    for folder in (tmp_path, tmp_path / "new", tmp_path / "new" / ".git", tmp_path / "none", "\0"):
        assert git_commit(folder) is None


@pytest.mark.parametrize("path", ["", ".", "/nonexistent"])
def test_no_commit_without_git(repository, monkeypatch, path):
    """Nor is anything run that lies in the folder and is called so."""
    trap(repository / "git", repository / "ran")
    monkeypatch.setenv("PATH", path)
    monkeypatch.chdir(repository)
    assert git_commit(repository) is None
    assert not (repository / "ran").exists()


def test_nothing_a_repository_names_is_run(repository):
    """Neither its file-system monitor nor its hooks."""
    (repository / "code" / "a.py").write_text("1\n")  # the index is stale: plain `git status` would refresh it
    hooks, ran = repository / "hooks", repository / "ran"
    hooks.mkdir()
    for name in ("monitor", "post-index-change"):
        trap(hooks / name, ran)
    git(repository, "config", "core.hooksPath", str(hooks))
    git(repository, "config", "core.fsmonitor", str(hooks / "monitor"))
    assert git_commit(repository) is not None
    assert not ran.exists()
    git(repository, "status")
    assert ran.exists()


def test_a_git_that_hangs_is_given_up(tmp_path, monkeypatch):
    """The commit is not worth waiting for."""
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert git_commit(tmp_path, timeout_s=0.05) is None


@pytest.mark.parametrize("said", ["", "# branch.oid (initial)\n", "fatal\n", "# branch.oid zzz\n", "\\377\\n"])
def test_a_git_that_says_something_else_says_nothing(tmp_path, monkeypatch, said):
    """Only a commit is taken for one."""
    program = tmp_path / "git"
    program.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert git_commit(tmp_path) is None


def trap(program, ran):
    """A program that leaves a trace when it is run."""
    program.write_text(f"#!/bin/sh\n: > '{ran}'\n")
    program.chmod(0o755)
