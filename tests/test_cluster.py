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
