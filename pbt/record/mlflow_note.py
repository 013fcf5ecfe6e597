"""What a sweep came to, as the description of its run: who won, how its weights were trained, how to get it again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pbt.member import SegmentKey
from pbt.record.mirrored import Story, leaves
from pbt.record.schema import canonical

#: What all our descriptions begin with; one that begins otherwise is a person's own.
OURS = "**This sweep"
#: Stretches of a schedule before those in the middle are only counted, and characters of a value.
_STRETCHES, _CHARS = 24, 24


def note(story: Story, sweep: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """The description, as Markdown.

    Args:
        story: All that the ledger says.
        sweep: What `run.json` says.
        best: The winner: `member`, and whatever else is known of it. Empty where there is none.
    """
    run, objective = sweep["run_id"], sweep["objective"]
    if "member" not in best:
        return f"{OURS} has no winner.** `pbt show {run}` tells how it stands."
    member, metric = best["member"], objective["metric"]
    better = "lower" if objective["mode"] == "min" else "higher"
    score = f"{objective['split']} {metric} {_short(best.get('score'))} ({better} is better)"
    test = "" if f"test/{metric}" not in best else f"; on the test split {_short(best[f'test/{metric}'])}"
    ancestry = story.ancestry(story.segment(story.last(member)))
    through = [key.member for at, key in enumerate(ancestry) if not at or ancestry[at - 1].member != key.member]
    lines = [
        f"{OURS} was won by member {member}**: {score}{test}.",
        "",
        f"Its weights came {' → '.join(map(str, through))}. They were trained with:",
        "",
        *_table(story, ancestry, list(sweep.get("hparams", {}))),
        "",
        "Browse the lineage: *Artifacts*, `lineage.html`.",
        "",
        f"Again: `pbt schedule {run} {member}`, `pbt why {run} {member}`; the weights are among the *Models*.",
    ]
    return "\n".join(lines)


def _table(story: Story, ancestry: list[SegmentKey], names: list[str]) -> Iterator[str]:
    """The schedule, a row for each stretch; those in the middle of a long one are only counted."""
    rows = list(_stretches(story, ancestry, names))
    heads = list(rows[0][2]) if rows else []
    yield _row(["age", "trained by", *heads])
    yield _row(["---"] * (2 + len(heads)))
    hidden = max(0, len(rows) - _STRETCHES)
    half = _STRETCHES // 2
    for place, (age, who, values) in enumerate(rows):
        if hidden and place == half:
            yield _row([f"... {hidden} more", "", *[""] * len(heads)])
        if not hidden or place < half or place >= half + hidden:
            yield _row([age, f"member {who}", *values.values()])


def _stretches(story: Story, ancestry: list[SegmentKey], names: list[str]) -> Iterator[tuple[str, int, dict[str, str]]]:
    """From age to age, by whom, with what; consecutive segments that are alike are one."""
    known: list[tuple[int, int, int, dict[str, str]]] = []
    for key in ancestry:
        end = story.outcomes.get(key, {}).get("age_end")
        if end is None:
            continue
        ordered = json.loads(story.segment(key)["hparams"])
        values = {name: _short(value) for name, value in leaves({name: ordered.get(name) for name in sorted(names)})}
        start = story.segment(key)["age_start"]
        if known and known[-1][2:] == (key.member, values):
            start = known.pop()[0]
        known.append((start, end, key.member, values))
    for start, end, who, values in known:
        yield f"{start:,} to {end:,}", who, values


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _short(value: Any) -> str:
    text = f"{value:.5g}" if isinstance(value, float) else value if isinstance(value, str) else canonical(value)
    return text if len(text) <= _CHARS else text[: _CHARS - 3] + "..."
