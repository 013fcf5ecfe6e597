"""The MLflow mirror: the ledger, as MLflow's pages want it. One way, one writer, in the driver.

    experiment
    +-- parent run        the sweep: spec as params, corpus as dataset, `best_score` and costs over steps, winner as tag
        +-- member run    one per member: scores, metrics and hyperparameters over `consumed`, ancestry as tags
            +-- segment run   while they are few, one per segment: its hyperparameters as params, where it came from
    models                weights that are kept or were copied: output of the run that made them, input of the takers'

Hyperparameters that change over a member's life are metrics (`hparams/lr`), never its params, which MLflow cannot
change.

Nothing is ever doubled. What is logged is a pure function of the ledger, down to the millisecond, and MLflow keeps one
copy of equal metrics; how far the mirror has come stands in the parent run's tag `pbt.cursor`, written after all that
the rows it covers have to say; runs and models are found again by their tags. So a second mirror goes on where the
first stopped, wherever that was.

Training never stops for the mirror: errors are remembered in `last_error`, rows are kept, and later calls catch up.

The rest of it: `mlflow_address` (where MLflow is), `mlflow_runs`, `mlflow_models`, `mlflow_batches` (what it takes);
`mirrored` and `mirrored_segments` (what there is to tell).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput

from pbt import dialect
from pbt.errors import first_line
from pbt.member import SegmentKey
from pbt.record.ledger import LedgerReader, Tail
from pbt.record.mirrored import (
    DESCRIPTION,
    Entry,
    Point,
    Story,
    Who,
    milliseconds,
    sweep_params,
    winner_facts,
    without_secrets,
)
from pbt.record.mirrored_segments import segment_metrics, segment_params, segment_tags, touched, weights
from pbt.record.mlflow_address import absolute_uri, connect, is_server, quiet, ui_command, without_password
from pbt.record.mlflow_batches import key
from pbt.record.mlflow_models import Models
from pbt.record.mlflow_note import OURS, note
from pbt.record.mlflow_runs import Runs
from pbt.record.schema import canonical

#: Ledger rows between two writings of the cursor.
CHUNK_ROWS = 5_000
#: Seconds to leave a server alone that has just failed.
RETRY_S = 5.0
#: How a sweep's end is called in MLflow.
STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class Mirror:
    """Copies one run's ledger to MLflow. Cheap to make: MLflow is contacted by the first `sync`.

    One `sync` may take as long as the server's timeout; call it where nothing waits for it.

    Args:
        run: The run's folder, with `run.json` and the ledger.
        uri: Tracking URI: `sqlite:///FILE`, `postgresql://...`, `http://...`.
        experiment: Name of the experiment; made if there is none.
        segment_runs: Segments get runs of their own in a sweep of at most so many. It is decided when the sweep's run
            is made, and stays so.
        artifact_root: Folder for the artifacts of an experiment in a database; None takes `mlflow-artifacts` beside
            the run. A server chooses for itself.
        connect: Makes the client.
        clock: Seconds, for the pause after an error.

    Raises:
        SpecError: MLflow cannot track there.
        RunNotFound: There is no ledger in the folder.
    """

    def __init__(
        self,
        run: Path,
        *,
        uri: str,
        experiment: str,
        segment_runs: int = 0,
        artifact_root: Path | None = None,
        connect: Callable[[str], MlflowClient] = connect,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.uri = absolute_uri(uri)
        self.last_error: str | None = None
        self.experiment_id: str | None = None
        self.sent = 0  # ledger rows, by this mirror
        self._experiment = experiment
        self._segment_runs = segment_runs
        self._artifact_root = (artifact_root or run.parent / "mlflow-artifacts").absolute()
        self._connect = connect
        self._clock = clock
        self._retry_at = -float("inf")
        self._reader = LedgerReader(run)
        self._tail = Tail(self._reader)
        self._sweep: dict[str, Any] = json.loads((run / "run.json").read_bytes())
        self._story = Story(self._sweep["objective"]["mode"], self._sweep.get("hparams", {}))
        self._pending: list[Entry] = []
        self._mirrored: dict[str, int] = dict.fromkeys(self._tail.seen, 0)
        self._client: MlflowClient | None = None
        self._there: _There | None = None
        self._is_certain = False  # whether `_there` is what MLflow has
        self._ending: _Ending | None = None

    @property
    def shown_uri(self) -> str:
        """Where MLflow is, without a password."""
        return without_password(self.uri)

    @property
    def behind(self) -> int:
        """Ledger rows that have been read and are not in MLflow yet."""
        return len(self._pending)

    @property
    def ended(self) -> bool:
        """Whether nothing of an announced end is left to be told."""
        return self._ending is None

    @property
    def parent_id(self) -> str | None:
        """MLflow's id of the sweep's run, once there is one."""
        return self._there.runs.known[None].run_id if self._there else None

    @property
    def member_ids(self) -> dict[int, str]:
        """MLflow's ids of the members' runs."""
        runs = self._there.runs.known if self._there else {}
        return {who: run.run_id for who, run in runs.items() if isinstance(who, int)}

    def ui(self, *, host: str = "127.0.0.1", port: int = 5000) -> tuple[str | None, str]:
        """The command that opens the UI, and the sweep's page in it; see `ui_command`."""
        return ui_command(self.uri, experiment_id=self.experiment_id, run_id=self.parent_id, host=host, port=port)

    def sync(self) -> int:
        """Copy what is new and return how many ledger rows that was. Errors of MLflow are kept, not raised.

        Within `RETRY_S` of an error nothing is tried.

        Raises:
            LedgerError: The ledger is damaged.
        """
        self._poll()
        if self._clock() < self._retry_at:
            return 0
        return self._attempt()

    def finish(self, status: str, best: Mapping[str, Any], artifacts: Sequence[Path] = ()) -> bool:
        """Copy the rest, end every run, name the winner and keep the artifacts. May be repeated.

        Args:
            status: `finished`, `failed` or `stopped`.
            best: The winner: `member`, and whatever else is known of it. Numbers become the parent's metrics
                `best/NAME`, the rest its tags `pbt.best_NAME`. Empty where no member survived.
            artifacts: Files and folders; those that do not exist are passed over.

        Returns:
            Whether all of it arrived. If not, `sync` tries again.
        """
        if status not in STATUS:
            raise ValueError(f"status {status!r} is none of {', '.join(STATUS)}")
        self._ending = _Ending(status, dict(best), tuple(artifacts))
        self._poll()
        self._attempt()
        return self.ended and not self.behind

    def _poll(self) -> None:
        fresh = self._tail.poll()
        self._story.add(fresh)
        self._pending += fresh

    def _attempt(self) -> int:
        before = self.sent
        try:
            with quiet():
                there = self._open()
                while self._pending:
                    self._send(there, self._pending[:CHUNK_ROWS])
                self._end(there)
            self.last_error = None
        except Exception as error:
            # Whatever it is (server, database, network, disk): training goes on. What was half done is looked up again.
            self.last_error = _reason(error).replace(self.uri, self.shown_uri)
            self._is_certain = False
            self._retry_at = self._clock() + RETRY_S
        return self.sent - before

    # ------------------------------------------------------------------------------------------------ opening

    def _open(self) -> _There:
        """Find or make the experiment and the parent run, and drop the rows that are there already."""
        if self._there and self._is_certain:
            return self._there
        client = self._client = self._client or self._connect(self.uri)
        self.experiment_id = self._find_experiment(client)
        runs = Runs(client, self.experiment_id, self._sweep)
        runs.find()
        if None not in runs.known:
            self._create_parent(runs)
        self._describe_parent(client, runs)
        models = Models(client, self.experiment_id, self._sweep, runs, _dataset(self._sweep))
        models.find()
        parent = runs.known[None]
        self._skip(json.loads(parent.tags.get("pbt.cursor", "{}")))
        self._there = _There(client, runs, models, parent.tags.get("pbt.segment_runs") == "yes")
        self._is_certain = True
        if self._pending:
            self._wake(runs)
        return self._there

    def _find_experiment(self, client: MlflowClient) -> str:
        if found := client.get_experiment_by_name(self._experiment):
            return str(found.experiment_id)
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(self._experiment, self._artifact_location(), kind))

    def _artifact_location(self) -> str | None:
        if is_server(self.uri):
            return None
        return (self._artifact_root / quote(self._experiment, safe="")).as_uri()

    def _create_parent(self, runs: Runs) -> None:
        sweep, budget = self._sweep, self._sweep["spec"]["budget"]
        is_few = budget["members"] * budget["generations"] <= self._segment_runs
        tags = {"pbt.status": "running", "pbt.segment_runs": "yes" if is_few else "no"}
        tags |= {f"pbt.data.{name}": value for name, value in sweep.get("data", {}).items()}
        tags |= {f"pbt.version.{name}": value for name, value in sweep.get("versions", {}).items()}
        runs.create(None, sweep["run_id"], tags, milliseconds(sweep["created"]))

    def _describe_parent(self, client: MlflowClient, runs: Runs) -> None:
        """Data set and params. The params come last: where all are there, nothing is left to be told."""
        params, data = sweep_params(self._sweep), _dataset(self._sweep)
        if data and not {key(name) for name in params} <= runs.known[None].params:
            client.log_inputs(runs.known[None].run_id, [DatasetInput(data, [])])
        runs.log(None, params=params)

    def _skip(self, cursor: Mapping[str, int]) -> None:
        """Forget rows the parent's cursor covers: another mirror, or a call whose answer was lost, has sent them."""
        spare = {table: max(0, cursor.get(table, 0) - done) for table, done in self._mirrored.items()}
        kept: list[Entry] = []
        for table, row in self._pending:
            if spare[table]:
                spare[table] -= 1
                self._mirrored[table] += 1
            else:
                kept.append((table, row))
        self._pending = kept

    def _wake(self, runs: Runs) -> None:
        """A sweep that was ended and goes on is running again; so is all that is not over for other reasons."""
        for who in runs.known:
            if not self._is_over(who):
                runs.wake(who)

    def _is_over(self, who: Who) -> bool:
        match who:
            case SegmentKey():
                return who in self._story.outcomes
            case int():
                return self._story.failed(who)
        return False

    # ------------------------------------------------------------------------------------------------ sending

    def _send(self, there: _There, rows: Sequence[Entry]) -> None:
        """Send some rows, then move the cursor past them."""
        for who, points in self._story.metrics(rows).items():
            self._make(there.runs, who)
            there.runs.log(who, points, self._story.sweep_tags() if who is None else self._story.tags(who))
        if there.has_segments:
            self._send_segments(there.runs, rows)
        for segment in touched(self._story, rows):
            self._settle(there, segment)
        self._move_cursor(there.runs, rows)

    def _make(self, runs: Runs, who: Who) -> None:
        """Make a run below the sweep's, if it is not there: it never was, or somebody deleted it."""
        if who in runs.known:
            return
        budget, above = self._sweep["spec"]["budget"], None
        match who:
            case SegmentKey(member, index):
                above = member
                self._make(runs, above)
                number = f"{_padded(member, budget['members'])} segment {_padded(index, budget['generations'])}"
                tags, started = segment_tags(self._story, who), float(self._story.segment(who)["at"])
            case int():
                number = _padded(who, budget["members"])
                tags, started = self._story.tags(who), self._story.started(who)
        tags["mlflow.parentRunId"] = runs.known[above].run_id
        runs.create(who, f"member {number}", tags, milliseconds(started))

    def _send_segments(self, runs: Runs, rows: Sequence[Entry]) -> None:
        for segment, points in segment_metrics(self._story, rows).items():
            self._make(runs, segment)
            params, tags = segment_params(self._story, segment), segment_tags(self._story, segment)
            runs.log(segment, points, tags, params)
            if outcome := self._story.outcomes.get(segment):
                status = "FAILED" if outcome["status"] == "failed" else "FINISHED"
                runs.end(segment, status, milliseconds(outcome["at"]))

    def _settle(self, there: _There, segment: SegmentKey) -> None:
        """Bring the model of a segment's weights up to date, and who took them over."""
        wanted = weights(self._story, segment, even_if_never_saved=there.has_segments)
        takers = self._story.takers.get(segment, [])
        self._make(there.runs, maker := there.whose(segment))
        there.models.settle(segment, wanted, maker, map(there.whose, takers))

    def _move_cursor(self, runs: Runs, rows: Sequence[Entry]) -> None:
        mirrored = dict(self._mirrored)
        for table, _ in rows:
            mirrored[table] += 1
        runs.log(None, tags={"pbt.cursor": canonical(mirrored)})
        self._mirrored = mirrored
        self.sent += len(rows)
        del self._pending[: len(rows)]

    # ------------------------------------------------------------------------------------------------- ending

    def _end(self, there: _There) -> None:
        if (ending := self._ending) is None:
            return
        last_ms = milliseconds(self._story.last_at or self._sweep["created"])
        for who in there.runs.known:
            self._end_below(there.runs, who, ending, last_ms)
        numbers, words = winner_facts(ending.best)
        words |= {"pbt.status": ending.status, "pbt.digest": self._reader.digest(), **self._winner(there, ending)}
        if there.runs.known[None].tags.get(DESCRIPTION, OURS).startswith(OURS):  # not a person's own
            words[DESCRIPTION] = note(self._story, self._sweep, ending.best)
        there.runs.log(None, [Point(name, value, last_ms, 0) for name, value in numbers.items()], words)
        there.runs.end(None, STATUS[ending.status], last_ms)
        self._keep_artifacts(there.client, there.runs.known[None].run_id, ending.artifacts)
        self._ending = None
        self._is_certain = False  # should more rows come after all, the runs are to be woken

    def _end_below(self, runs: Runs, who: Who, ending: _Ending, last_ms: int) -> None:
        """End the run of a member, or that of a segment which came to no end of its own."""
        match who:
            case SegmentKey() if who not in self._story.outcomes:
                runs.log(who, tags={"pbt.status": "stopped"})
                runs.end(who, "FAILED" if ending.status == "failed" else "KILLED", last_ms)
            case int():
                winner = {"pbt.winner": "yes" if who == ending.best.get("member") else "no"}
                runs.log(who, tags=self._story.tags(who) | self._story.verdict(who) | winner)
                status = "FAILED" if self._story.failed(who) else STATUS[ending.status]
                runs.end(who, status, milliseconds(self._story.ended(who)))

    def _winner(self, there: _There, ending: _Ending) -> dict[str, str]:
        """The winner's run and weights, by their ids."""
        member = ending.best.get("member", -1)
        if member not in there.runs.known:
            return {}
        model = there.models.model_id(self._story.last(member))
        return {"pbt.best_run_id": there.runs.known[member].run_id} | ({"pbt.best_model_id": model} if model else {})

    def _keep_artifacts(self, client: MlflowClient, run_id: str, artifacts: Iterable[Path]) -> None:
        client.log_text(run_id, dialect.write(without_secrets(self._sweep["spec"])), "sweep.yaml")
        client.log_text(run_id, json.dumps(self._story.environment(), indent=1), "environment.json")
        client.log_text(run_id, json.dumps(without_secrets(self._sweep), indent=1), "run.json")
        for path in artifacts:
            if path.is_dir():
                client.log_artifacts(run_id, str(path), path.name)
            elif path.exists():
                client.log_artifact(run_id, str(path))


@dataclass(frozen=True, slots=True)
class _There:
    """What MLflow has of the sweep, and whether its segments have runs."""

    client: MlflowClient
    runs: Runs
    models: Models
    has_segments: bool

    def whose(self, segment: SegmentKey) -> Who:
        """Whose run is to name the models that a segment made, or took over."""
        return segment if self.has_segments else segment.member


@dataclass(frozen=True, slots=True)
class _Ending:
    """What `finish` was told, kept until it has arrived."""

    status: str
    best: Mapping[str, Any]
    artifacts: tuple[Path, ...]


def _reason(error: BaseException) -> str:
    """An error in one line: the database's or the network's own, without what MLflow and its libraries add to it."""
    causes = [error]
    for cause in causes:  # which grows while it is walked
        if own := getattr(cause, "orig", None):
            return first_line(own)
        inner = (cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args)
        causes += [one for one in inner if isinstance(one, BaseException) and one not in causes]
    request = next((found for cause in causes if (found := getattr(cause, "request", None)) is not None), None)
    network = [
        cause for cause in causes if isinstance(cause, OSError) and (cause.strerror or type(cause) is TimeoutError)
    ]
    if request is None or not network:
        return first_line(error)
    place = str(request.url).split("/")[2].rpartition("@")[2]
    return f"{place}: {(network[-1].strerror or 'timed out').lower()}"


def _padded(number: int, count: int) -> str:
    """A number below `count`, so that names in alphabetical order are in order."""
    return f"{number:0{len(str(count - 1))}d}"


def _dataset(sweep: Mapping[str, Any]) -> Dataset | None:
    """The corpus as MLflow's data set: its name, and the hash found among its provenance (else a hash of that)."""
    data = sweep.get("data")
    if not data:
        return None
    hashes = [str(value) for name, value in data.items() if re.search("sha|hash|digest", name)]
    digest = hashes[0] if hashes else hashlib.sha256(canonical(data).encode()).hexdigest()
    name = next((str(data[key]) for key in ("name", "source", "corpus") if key in data), "data")
    source = canonical(data)
    return Dataset(name[:500], digest[:36], "local", source, profile=source)
