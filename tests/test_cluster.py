"""`cluster.yaml` is what Ray's launcher expects; checked offline."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_cluster_file_is_valid() -> None:
    """Ray's own schema and defaults accept it, and every node type is reachable."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(dict(config)))
    assert config["head_node_type"] in config["available_node_types"]
    assert sum(kind.get("max_workers", 0) for kind in config["available_node_types"].values()) <= config["max_workers"]


def test_the_cluster_installs_the_tested_versions() -> None:
    """Every node runs the same set-up with the same constraints as this machine."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert any("scripts/setup" in command for command in config["setup_commands"])
    assert "--constraint constraints.txt" in (ROOT / "scripts" / "setup").read_text()


def test_workers_come_and_go() -> None:
    """They are scaled, of the spot market, and told of the token; the head stays."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    head, worker = (config["available_node_types"][name] for name in ("head", "gpu_worker"))
    assert worker["min_workers"] < worker["max_workers"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in head["node_config"]
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [it for it in config[commands] if " start " in it]
        assert start.startswith("RAY_AUTH_MODE=token ")


def test_the_kuberay_job_is_one() -> None:
    """Of the fields of `ray.io/v1` that it needs, with this project's versions of Ray and Python, and a token."""
    job = yaml.safe_load((ROOT / "examples/kuberay/rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert f"rayproject/ray:{cluster['rayVersion']}-py311-gpu" in (ROOT / "examples/kuberay/Dockerfile").read_text()
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounted = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}
        assert mounted.keys() == {it["name"] for it in pod["volumes"]}
        assert f"--storage {mounted['runs']}" in job["spec"]["entrypoint"]
        assert f"{mounted['sweep']}/language.yaml" in job["spec"]["entrypoint"]


def test_what_the_job_starts_is_the_command_line() -> None:
    """Its words are taken as they stand there: the interpreter, then `pbt run` with options it has."""
    from pbt.cli import run

    job = yaml.safe_load((ROOT / "examples/kuberay/rayjob.yaml").read_text())
    python, *words = job["spec"]["entrypoint"].split()
    assert python.startswith("/opt/pbt/.venv/")
    assert words[:3] == ["-m", "pbt", "run"]
    context = run.make_context("run", words[3:])
    assert context.params["address"] == "auto"
