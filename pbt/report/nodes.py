"""What the nodes of a sweep did, from the ledger's `nodes`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pbt.report import text

#: Nodes named one by one; of more, the first and the last are.
_NAMED = 4


def node_facts(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each session and node: means over the time that the node was watched, and its energy.

    Args:
        rows: Of the ledger's `nodes`, in order.

    Returns:
        Each with `session`, `node`, `seconds` that it was watched, and the node's values by name.
    """
    nodes: dict[tuple[int, int], dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        nodes[row["session"], row["node"]][row["name"]].append((row["wall_s"], row["value"]))
    return [
        {"session": session, "node": node, "seconds": max(known[-1][0] for known in values.values())}
        | {name: known[-1][1] if name == "energy_joules" else _mean(known) for name, known in values.items()}
        for (session, node), values in sorted(nodes.items())
    ]


def node_lines(facts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The last session's nodes in words, one line each, under one heading."""
    if not facts:
        return {}
    last = [node for node in facts if node["session"] == facts[-1]["session"]]
    shown = last if len(last) <= _NAMED else [*last[: _NAMED - 1], last[-1]]
    lines = [f"{node['node']}: {_words(node)}" for node in shown]
    if shown != last:
        lines.insert(_NAMED - 1, f"{len(last) - _NAMED} more are in --json")
    return {"nodes" + " " * number: line for number, line in enumerate(lines)}


def _mean(known: Sequence[tuple[float, float]]) -> float:
    """Of values that each hold for the time since the one before; the first, since the session began."""
    times = [wall_s for wall_s, _ in known]
    spans = [now - before for before, now in zip([0.0, *times], times, strict=False)]
    if not sum(spans):
        return sum(value for _, value in known) / len(known)
    return sum(span * value for span, (_, value) in zip(spans, known, strict=True)) / sum(spans)


def _words(node: Mapping[str, Any]) -> str:
    said = []
    if (busy := node.get("cpu_utilization_percentage")) is not None:
        said.append(f"processors {busy:.0f} % busy")
    if (used := node.get("system_memory_usage_megabytes")) is not None:
        said.append(f"{text.size(1e6 * used)} of memory in use ({node['system_memory_usage_percentage']:.0f} %)")
    gpus = [value for name, value in node.items() if re.fullmatch(r"gpu_\d+_utilization_percentage", name)]
    if gpus:
        each = f"{gpus[0]:.0f} %" if len(gpus) == 1 else f"{min(gpus):.0f} to {max(gpus):.0f} %"
        said.append(f"{text.count(len(gpus), 'GPU')} {each} busy")
    if (joules := node.get("energy_joules")) is not None:
        said.append(f"{joules:,.0f} joules")
    return ", ".join(said)
