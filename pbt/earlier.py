"""What was trained before, read from wherever it was recorded, for a search to begin with.

A source is a run of ours (its name, the beginning of it, its folder, or `latest`), the folder of one of Ray Tune's, a
CSV, Parquet or Arrow file, `optuna:URL` with the URL of a storage (`#study` where it has several), or
`mlflow:experiment`. What is read becomes part of the sweep: one that is resumed does not look again. Nothing is
unpickled.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from pbt.errors import SpecError, nearest
from pbt.member import Hparams
from pbt.spec import Objective, is_number, require
from searchspaces import Choice, Float, Int, Simplex, Space, SpaceError

#: What an option tells of one: where it was, and what its columns are called.
_KEYS = ("source", "score", "steps", "steps_each")
#: So many different reasons why runs are left out are told.
_TOLD = 3
#: Tables by their files' endings.
_TABLES = (".csv", ".parquet", ".arrow", ".feather")
_FIELD = "strategy.options.earlier"
_log = logging.getLogger(__name__)

#: Scores after steps, None at the end of a run.
Curve: TypeAlias = list[tuple[float | None, float]]
#: Hyperparameters by name, as they were recorded, and what they came to.
Found: TypeAlias = tuple[Mapping[str, Any], Curve]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where runs were recorded.

    Attributes:
        source: A folder, a file, `optuna:URL` or `mlflow:experiment`.
        score: What the objective is called there.
        steps: Of tables, the column with the steps; None if all rows are runs to the end.
        steps_each: Steps of ours that one of theirs is, such as those of an epoch.
    """

    source: str
    score: str
    steps: str | None = None
    steps_each: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a run has to be like to be comparable.

    Attributes:
        space: What may vary; runs outside are left out.
        objective: Whose metric the scores are.
        fixed: Hyperparameters that do not vary, as they are now; runs that had others are left out.
        storage: Where runs of ours are looked for by their names.
    """

    space: Space
    objective: Objective
    fixed: Hparams = field(default_factory=dict)
    storage: Path = Path()


def expanded(earlier: Sequence[Any], setting: Setting) -> list[dict[str, Any]]:
    """Runs in place of the sources that name them: `{hparams: ..., curve: [[steps, score], ...]}` each.

    Args:
        earlier: Runs, sources, or mappings of a `Source`'s fields.
        setting: What they have to be like.

    Raises:
        SpecError: A source cannot be read, or has no run that fits.
    """
    found: list[dict[str, Any]] = []
    for index, entry in enumerate(earlier):
        where = f"{_FIELD}[{index}]"
        if isinstance(entry, Mapping) and "hparams" in entry:
            found.append(_checked(entry, setting.space, where))
        else:
            found += read(_source(entry, setting.objective, where), setting, where)
    return found


def read(source: Source, setting: Setting, where: str = _FIELD) -> list[dict[str, Any]]:
    """The runs of a source that fit; a warning tells how many do not, and why.

    Raises:
        SpecError: It cannot be read, or has no run that fits.
    """
    try:
        found = list(_reader(source.source, setting)(source))
    except SpecError as error:
        raise SpecError(f"{where}.{error.field}", f"{source.source!r} {error.problem}", error.mend) from error
    except Exception as error:  # whatever others' readers and servers may raise
        told = f"{source.source!r} cannot be read: {str(error).removeprefix('RUN: ').rstrip('.')}"
        raise SpecError(where, told, "Name a run, a table, optuna:URL or mlflow:experiment") from error
    if not found:
        told = f"{source.source!r} has no run with {source.score!r}"
        raise SpecError(where, told, "Write {source: ..., score: NAME} with what the objective is called there")
    runs, reasons = [], []
    for hparams, curve in found:
        try:
            runs.append(_run(hparams, curve, setting, source.steps_each))
        except (SpaceError, ValueError, TypeError) as error:
            reasons.append(str(error))
    if not runs:
        names = sorted({name for hparams, _ in found for name in hparams})
        told = f"none of the {len(found)} runs of {source.source!r} fits: {reasons[0]}. They have {', '.join(names)}"
        raise SpecError(where, told, "Widen the space, or name its hyperparameters as they are named there")
    if reasons:
        why = "; ".join(f"{number} because {reason}" for reason, number in Counter(reasons).most_common(_TOLD))
        more = "" if len(set(reasons)) <= _TOLD else "; ..."
        told = "%s: %d of the %d runs of %r are left out: %s%s"
        _log.warning(told, where, len(reasons), len(found), source.source, why, more)
    return runs


def _source(entry: Any, objective: Objective, where: str) -> Source:
    given = {"source": entry} if isinstance(entry, str) else entry
    told, mend = f"{entry!r} is neither a run nor a source", "Write a path, or {source: PATH, score: NAME}"
    require(isinstance(given, Mapping) and isinstance(given.get("source"), str), where, told, mend)
    for name in given:
        require(name in _KEYS, f"{where}.{name}", "is not a known key", nearest(str(name), _KEYS))
    made = Source(**{"score": objective.metric, **given})
    is_good = is_number(made.steps_each) and made.steps_each > 0
    require(is_good, f"{where}.steps_each", f"{made.steps_each!r} is no positive number", "Write steps of an epoch")
    return made


def _checked(entry: Mapping[str, Any], space: Space, where: str) -> dict[str, Any]:
    """A run that was written by hand, or read before.

    Raises:
        SpecError: It lies outside the space, or has no scores.
    """
    try:
        hparams = space.point(entry["hparams"])
    except (SpaceError, AttributeError, TypeError) as error:
        raise SpecError(f"{where}.hparams", "is not in the space", str(error)) from error
    curve = entry.get("curve")
    mend = "Write curve: [[steps, score], ...]; null for the steps of a run to the end, and for a score that diverged"
    is_curve = isinstance(curve, list | tuple) and len(curve) > 0 and all(map(_is_point, curve))
    require(is_curve, f"{where}.curve", f"{curve!r} are no scores after steps", mend)
    return {"hparams": hparams, "curve": [list(point) for point in entry["curve"]]}


def _is_point(point: Any) -> bool:
    if not isinstance(point, list | tuple) or len(point) != 2:
        return False
    steps, score = point
    is_reached = steps is None or (is_number(steps) and 0 < steps < math.inf)
    return is_reached and (score is None or (is_number(score) and math.isfinite(score)))


def _run(recorded: Mapping[str, Any], curve: Curve, setting: Setting, steps_each: float) -> dict[str, Any]:
    """A run as options have it.

    Raises:
        SpaceError: It lies outside the space.
        ValueError: Something that does not vary was different, or it has no score after its beginning.
    """
    space = setting.space
    for name, value in setting.fixed.items():
        if name in recorded and not _is_same(recorded[name], value):
            raise ValueError(f"{name} was {recorded[name]}, and is {value} here")
    hparams = space.point({name: _value(recorded, name, space) for name in space if _has(recorded, name, space)})
    points = [
        [None if steps is None else steps * steps_each, score if math.isfinite(score) else None]
        for steps, score in curve
    ]
    points = [point for point in points if point[0] is None or point[0] > 0]
    if not points:
        raise ValueError("there is no score after the first step")
    return {"hparams": hparams, "curve": points}


def _is_same(recorded: Any, value: Any) -> bool:
    """Whether a value that was recorded, perhaps as text, is another."""
    if recorded == value or str(recorded) == str(value):
        return True
    try:
        return is_number(value) and math.isclose(float(recorded), float(value))
    except (TypeError, ValueError):
        return False


def _has(recorded: Mapping[str, Any], name: str, space: Space) -> bool:
    domain = space[name]
    if isinstance(domain, Simplex) and name not in recorded:
        return all(f"{name}[{part}]" in recorded for part in domain.parts)
    value = recorded.get(name)
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _value(recorded: Mapping[str, Any], name: str, space: Space) -> Any:
    """As the space has it: others keep whole numbers as 8.0, and anything as text."""
    domain = space[name]
    if isinstance(domain, Simplex) and name not in recorded:
        shares = {part: float(recorded[f"{name}[{part}]"]) for part in domain.parts}
        total = sum(shares.values())
        return {part: share / total for part, share in shares.items()}
    value = recorded[name]
    if isinstance(value, str) and not isinstance(domain, Choice):
        value = json.loads(value)
    if isinstance(domain, Int):
        return int(value) if float(value).is_integer() else value
    if isinstance(domain, Float):
        near = domain.decode(domain.encode(min(max(float(value), domain.low), domain.high)))
        return near if domain.step is not None and math.isclose(near, float(value)) else float(value)
    if isinstance(domain, Choice):
        return next((option for option in domain.options if option == value or str(option) == str(value)), value)
    return value


# ---------------------------------------------------------------------------------------------------------- sources


def _reader(source: str, setting: Setting) -> Callable[[Source], Iterable[Found]]:
    if source.startswith("optuna:"):
        return _of_optuna
    if source.startswith("mlflow:"):
        from pbt.record.mlflow_earlier import runs_of

        return lambda it: runs_of(it.source.removeprefix("mlflow:"), it.score)
    if Path(source).suffix in _TABLES:
        return lambda it: _of_table(it, setting.space)
    if Path(source).is_dir() and not (Path(source) / "run.json").exists():
        return _of_ray
    return lambda it: _of_run(it, setting)


def _of_run(source: Source, setting: Setting) -> Iterator[Found]:
    """Members of a run of ours that trained with the same values from beginning to end.

    Options of its trainable count as hyperparameters that did not vary.
    """
    from pbt.record.result import Result
    from pbt.record.runs import find_run

    result = Result(find_run(source.source, setting.storage))
    told, spec = result.run.info["objective"], result.run.info["spec"]
    if told["metric"] != source.score:
        mend = f"Write {{source: ..., score: {told['metric']}}}, if that is the same"
        raise SpecError("score", f"has the objective {told['metric']}, not {source.score}", mend)
    wanted = setting.objective.mode
    problem = f"has an objective whose mode is {told['mode']}, not {wanted}"
    require(wanted in (None, told["mode"]), "source", problem, "Name a run in which the same was good")
    rows, options = result.frame, spec["trainable"].get("options", {})
    for member in dict.fromkeys(rows.member.tolist()):
        own = [it for it in range(len(rows.member)) if rows.member[it] == member and rows.is_ended[it]]
        if own and len({rows.hparams[it] for it in own}) == 1 and not any(rows.is_copy[it] for it in own):
            curve: Curve = [(float(rows.consumed[it, 1]), float(rows.score[it])) for it in own]
            yield {**options, **rows.distinct[rows.hparams[own[0]]]}, curve


def _of_ray(source: Source) -> Iterator[Found]:
    """Trials of a folder of Ray Tune's: `result.json` has a line for each report."""
    for file in sorted(Path(source.source).rglob("result.json")):
        lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        told = [line for line in lines if source.score in line]
        curve: Curve = [(float(line["training_iteration"]), _number(line[source.score], source.score)) for line in told]
        if curve:
            yield _flat(lines[-1].get("config", {})), curve


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested configurations by `outer/inner`, and by the inner name alone where no other is called so."""
    nested = {name: _flat(value) for name, value in config.items() if isinstance(value, Mapping)}
    told = Counter(name for values in nested.values() for name in values)
    inner = {name: value for values in nested.values() for name, value in values.items() if told[name] == 1}
    full = {f"{outer}/{name}": value for outer, values in nested.items() for name, value in values.items()}
    return {**inner, **full, **config}


def _of_table(source: Source, space: Space) -> Iterator[Found]:
    """Rows of one configuration are points of one curve; columns that are no hyperparameters do not count."""
    import pyarrow.csv
    import pyarrow.feather
    import pyarrow.parquet

    path = Path(source.source)
    if path.suffix == ".csv":
        table = pyarrow.csv.read_csv(path)
    elif path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
    else:
        table = pyarrow.feather.read_table(path)
    for key, name in (("score", source.score), ("steps", source.steps)):
        told = f"has no column {name}, only {', '.join(table.column_names)}"
        require(name is None or name in table.column_names, key, told, f"Write {{source: ..., {key}: NAME}}")
    grouped: dict[str, Found] = {}
    for row in table.to_pylist():
        score, steps = row.pop(source.score), row.pop(source.steps) if source.steps else None
        known = {name: value for name, value in row.items() if name.partition("[")[0] in space}
        own = grouped.setdefault(json.dumps(known, sort_keys=True, default=str), (row, []))
        reached = _number(steps, source.steps) if source.steps else None
        own[1].append((reached, math.nan if score is None else _number(score, source.score)))
    for hparams, curve in grouped.values():
        yield hparams, sorted(curve, key=lambda point: point[0] or 0.0)


def _number(value: Any, name: str) -> float:
    """What stands in a column.

    Raises:
        ValueError: It is no number.
    """
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} holds {value!r}, which is no number") from error


def _of_optuna(source: Source) -> Iterator[Found]:
    """Trials of a study: those that are complete, and what those that were pruned had reported."""
    import optuna
    from optuna.trial import TrialState

    url, _, name = source.source.removeprefix("optuna:").partition("#")
    study = optuna.load_study(study_name=name or None, storage=url)
    for trial in study.get_trials(deepcopy=False):
        curve: list[tuple[float | None, float]] = [
            (float(it), value) for it, value in trial.intermediate_values.items()
        ]
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            curve = [*curve[:-1], (None, float(trial.value))]
        if curve:
            yield trial.params, curve
