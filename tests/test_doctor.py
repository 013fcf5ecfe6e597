"""`pbt doctor`: what is there is tried, what is missing is told with its mend, and nothing is left behind."""

from __future__ import annotations

import io
import json
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pbt import doctor
from pbt.doctor import Finding, as_json, examine, show
from pbt.runtime import machine

GPU = {"name": "NVIDIA H100", "memory_bytes": None}
Usage = namedtuple("Usage", "total used free")


def told(findings):
    console = Console(file=io.StringIO(), width=200)
    can_train = show(findings, console)
    return can_train, console.file.getvalue()


def test_everything_is_looked_at(tmp_path, monkeypatch):
    """Here, where the tests run; a folder made for the occasion is gone again."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(doctor, "_ray", lambda about, address: Finding(about, "good", "not tried"))
    found = {it.about: it for it in examine(tmp_path / "runs")}
    assert list(found) == ["Python", "packages", "torch", "GPUs", "compiler", "storage", "Ray", "MLflow", "energy"]
    assert [it for it in found.values() if it.state == "bad"] == []
    assert torch.__version__ in found["torch"].told
    assert "a sync takes" in found["storage"].told
    assert not (tmp_path / "runs").exists()


@pytest.mark.ray
def test_ray_is_tried(ray_cluster):
    """The one these tests have up."""
    found = doctor._ray("Ray", None)
    assert (found.state, "1 node with" in found.told) == ("good", True)


def test_what_is_wrong_is_told_with_its_mend():
    """A line for each, the mend below; the last line says whether training can go on."""
    findings = [Finding("GPUs", "good", "none"), Finding("torch", "bad", "is missing", "Install it")]
    can_train, text = told(findings)
    assert not can_train
    assert text.splitlines() == [
        "ok    GPUs      none",
        "BAD   torch     is missing",
        "                Install it.",
        "1 thing to mend before training.",
    ]
    can_train, text = told([Finding("compiler", "note", "none")])
    assert can_train
    assert text.endswith("Ready to train: pbt demo\n")


def test_programs_are_told_the_same():
    """And whether training can go on."""
    told, can_train = as_json([Finding("torch", "bad", "is missing", "Install it")])
    assert not can_train
    facts = {"about": "torch", "state": "bad", "told": "is missing", "mend": "Install it"}
    assert json.loads(told) == {"can_train": False, "findings": [facts]}


def test_a_check_that_breaks_is_a_finding(tmp_path, monkeypatch):
    """Whatever is broken, the others are still looked at."""

    def broken(about):
        raise OSError("the disk is on fire")

    monkeypatch.setattr(doctor, "_torch", broken)
    monkeypatch.setattr(doctor, "_ray", lambda about, address: Finding(about, "good", "not tried"))
    found = {it.about: it for it in examine(tmp_path)}
    assert (found["torch"].state, found["torch"].told) == ("bad", "OSError: the disk is on fire")
    assert len(found) == 9


def test_packages_that_are_missing_or_old_are_named(monkeypatch):
    """With the command that mends all of them."""
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: {"ray": None, "torch": "2.0"}.get(name, real(name)))
    found = doctor._packages("packages")
    assert found.state == "bad"
    assert found.told == "ray is missing; torch is 2.0, not >=2.13"
    assert "pip install" in found.mend


@pytest.mark.parametrize(
    ("cuda", "is_available", "says", "mend"),
    [
        (None, False, "is built without CUDA", "Install the CUDA build of torch"),
        ("13.0", False, "torch cannot use them (driver 535.1)", "Update NVIDIA's driver to one for CUDA 13.0"),
    ],
)
def test_gpus_that_torch_cannot_use_are_a_fault(monkeypatch, cuda, is_available, says, mend):
    """Otherwise a sweep would train on the CPU, and nobody would know why it takes so long."""
    monkeypatch.setattr(machine, "_gpus", lambda nvml: [GPU])
    monkeypatch.setattr(machine, "_driver", lambda: "535.1")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_available)
    found = doctor._gpus("GPUs")
    assert (found.state, says in found.told, found.mend.startswith(mend)) == ("bad", True, True)


@pytest.mark.parametrize("script", [None, "#!/bin/sh\necho 'omp.h: no such file' >&2\nexit 1\n"])
def test_a_compiler_that_does_not_compile_is_noted(tmp_path, monkeypatch, script):
    """None at all, or one without OpenMP."""
    path = tmp_path / "c++"
    if script:
        path.write_text(script)
        path.chmod(0o755)
    monkeypatch.setattr("trainables.core.step.compiler", lambda: str(path) if script else None)
    found = doctor._compiler("compiler")
    assert found.state == "note"
    assert ("omp.h" if script else "none") in found.told
    assert "g++" in found.mend


def test_a_storage_folder_that_cannot_be_written_is_a_fault(tmp_path):
    """Told as a sweep would tell it."""
    (tmp_path / "file").write_text("")
    findings = {it.about: it for it in [_only("storage", tmp_path / "file" / "runs")]}
    assert findings["storage"].state == "bad"
    assert "Name a folder you may write with --storage" in findings["storage"].told


def _only(about, folder):
    try:
        return doctor._storage(about, folder)
    except Exception as error:
        return Finding(about, "bad", doctor.first_line(error))


def test_little_room_is_noted(tmp_path, monkeypatch):
    """Before a run is lost to it."""
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(10, 9, 1_000_000))
    found = doctor._storage("storage", Path(tmp_path))
    assert (found.state, "1.0 MB free" in found.told) == ("note", True)


def test_a_tracking_server_that_is_down_is_noted(monkeypatch):
    """Training goes on without it; the password is not shown."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:1")
    found = doctor._mlflow("MLflow")
    assert found.state == "note"
    assert "does not answer" in found.told
    assert "secret" not in found.told + found.mend
    assert "pbt sync" in found.mend
