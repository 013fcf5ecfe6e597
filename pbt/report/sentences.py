"""The entries of a member's story in plain English."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pbt.lineage import tell
from pbt.member import Hparams
from pbt.record.story import Entry
from pbt.report import text
from pbt.report.tables import changes

#: Digits of a SHA-256 that people compare.
_DIGEST = 12


def sentence(entry: Entry, names: Sequence[str]) -> str:
    """What happened, and the reason that was recorded.

    Args:
        entry: Of a story.
        names: The hyperparameters that vary, in order.
    """
    words, reason = _SENTENCES.get(entry.kind, _plain(entry.kind))(entry, names), entry.reason.rstrip(".")
    return f"{words}: {reason}" if reason else words


def values(hparams: Hparams, names: Sequence[str]) -> str:
    """`lr 0.001, optimizer sgd`; those that do not vary are left out."""
    return (
        ", ".join(f"{name} {text.hparam(hparams[name])}" for name in names if name in hparams) or "no hyperparameters"
    )


def changed(before: Hparams, after: Hparams, between: str = " -> ") -> str:
    """`lr 0.001 -> 0.002`, for all that differ."""
    found = [f"{name} {between.join(both(*pair))}" for name, pair in changes(before, after).items()]
    return ", ".join(found) or "the same hyperparameters"


def both(one: Any, other: Any) -> tuple[str, str]:
    """Two values that differ, with digits enough to see it."""
    said = text.hparam(one), text.hparam(other)
    return said if said[0] != said[1] else (repr(one), repr(other))


def _started(entry: Entry, names: Sequence[str]) -> str:
    return f"started from new weights with {values(entry.hparams or {}, names)}"


def _restarted(entry: Entry, names: Sequence[str]) -> str:
    return f"began again from new weights; {_changed(entry)}"


def _copied(entry: Entry, names: Sequence[str]) -> str:
    return f"took over the weights of {_whose(entry)}; {_changed(entry)}"


def _set(entry: Entry, names: Sequence[str]) -> str:
    return f"went on with {_changed(entry)}"


def _shrunk(entry: Entry, names: Sequence[str]) -> str:
    return f"went on from its own weights, shrunk and perturbed; {_changed(entry)}"


def _donated(entry: Entry, names: Sequence[str]) -> str:
    if entry.other is None:
        return ""
    said = f"gave its weights to member {entry.other.member} ({tell(entry.other)})"
    begins = entry.other_generation
    return said if begins is None else f"{said}, whose generation {begins + 1} begins with them"


def _ended(entry: Entry, names: Sequence[str]) -> str:
    is_nan = entry.score is None or math.isnan(entry.score)
    words = "diverged" if is_nan else f"scored {text.score(entry.score)}"
    if standing := entry.standing:
        awaited = f" so far, {standing.awaited} to come" if standing.awaited else ""
        words += f", rank {standing.rank} of {standing.of}{awaited}"
    return words + _held(entry)


def _failed(entry: Entry, names: Sequence[str]) -> str:
    return "failed" + _held(entry)


def _running(entry: Entry, names: Sequence[str]) -> str:
    ends = "stopped before it reported" if entry.detail == "stopped" else "no report yet"
    return f"began to train with {values(entry.hparams or {}, names)}; {ends}"


def _evaluated(entry: Entry, names: Sequence[str]) -> str:
    found = ", ".join(f"{name} {text.metric(value)}" for name, value in (entry.metrics or {}).items())
    return f"evaluated on the {entry.detail} split: {found}"


def _checkpoint(done: str) -> Callable[[Entry, Sequence[str]], str]:
    return lambda entry, names: f"checkpoint {entry.detail[:_DIGEST]} {done}"


def _incident(entry: Entry, names: Sequence[str]) -> str:
    return entry.detail.replace("_", " ")


def _retrained(entry: Entry, names: Sequence[str]) -> str:
    return f"segment {entry.segment} had been lost and was trained again"


def _session(entry: Entry, names: Sequence[str]) -> str:
    return f"the sweep was taken up again ({entry.detail})"


def _finished(entry: Entry, names: Sequence[str]) -> str:
    winner = "without a winner" if entry.other is None else f"and member {entry.other.member} won"
    return f"the sweep finished {winner}"


def _plain(words: str) -> Callable[[Entry, Sequence[str]], str]:
    return lambda entry, names: words


_SENTENCES: Mapping[str, Callable[[Entry, Sequence[str]], str]] = {
    "start": _started,
    "restart": _restarted,
    "copy": _copied,
    "set": _set,
    "shrink": _shrunk,
    "ended": _ended,
    "failed": _failed,
    "running": _running,
    "decline": _plain("kept its weights"),
    "donate": _donated,
    "freeze": _plain("left its slot"),
    "thaw": _plain("took a slot again, with its own weights"),
    "evaluate": _plain("to be evaluated"),
    "evaluated": _evaluated,
    "saved": _checkpoint("saved"),
    "removed": _checkpoint("removed"),
    "damaged": _checkpoint("found damaged"),
    "incident": _incident,
    "retrained": _retrained,
    "session": _session,
    "budget": _plain("the budget ended"),
    "extend": _plain("the sweep was extended"),
    "won": _plain("announced the winner"),
    "finish": _finished,
}


def _whose(entry: Entry) -> str:
    if entry.other is None:
        return "another member"
    return f"member {entry.other.member} ({tell(entry.other)}, score {text.score(entry.score)})"


def _changed(entry: Entry) -> str:
    return changed(entry.before or {}, entry.hparams or {})


def _held(entry: Entry) -> str:
    """What the device held, where it was not what was ordered."""
    if not entry.in_effect:
        return ""
    ordered = entry.hparams or {}
    known = {name: held for name, held in entry.in_effect.items() if held is not None or entry.kind == "failed"}
    pairs = {name: both(held, ordered.get(name)) for name, held in known.items()}
    wrong = [f"{name} was {held} where {wanted} was ordered" for name, (held, wanted) in pairs.items()]
    wrong += [f"{name} was not asked for" for name in entry.in_effect if name not in known]
    return f"; not in effect: {', '.join(wrong)}"
