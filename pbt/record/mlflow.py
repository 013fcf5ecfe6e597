"""The MLflow mirror: the ledger, as MLflow's pages want it. One way, one writer, in the driver.

    experiment
    +-- parent run    the sweep: spec as params, corpus as dataset, `best_score` over steps, winner and digest as tags
        +-- child run one per member: scores, metrics and hyperparameters over `consumed`, ancestry as tags

Hyperparameters that change over a member's life are metrics (`hparams/lr`), never params, which MLflow cannot change.

Nothing is ever doubled. What is logged is a pure function of the ledger, down to the millisecond, and MLflow keeps one
copy of equal metrics; how far the mirror has come stands in the parent run's tag `pbt.cursor`, written after the rows
it covers; runs are found again by their tags. So a second mirror goes on where the first stopped, wherever that was.

Training never stops for the mirror: errors are remembered in `last_error`, rows are kept, and later calls catch up.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

# MLflow reads this when it is imported. A trainer has no business telling anyone that it was used.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag, ViewType

from pbt.errors import SpecError, StorageError, first_line
from pbt.record.ledger import LedgerReader, Tail
from pbt.record.mirrored import TAG_CHARS, Entry, Point, Story, Who, milliseconds, sweep_params, winner_facts
from pbt.record.schema import canonical
from pbt.spec import has_secret, is_trackable

#: MLflow takes 1,000 metrics, 100 params, 100 tags and 1 MB in one `log_batch`. So many of full length stay below.
BATCH_METRICS, BATCH_PARAMS, BATCH_TAGS = 1_000, 100, 40
PARAM_CHARS, KEY_CHARS = 6_000, 250
#: Ledger rows between two writings of the cursor.
CHUNK_ROWS = 5_000
#: Seconds to leave a server alone that has just failed.
RETRY_S = 5.0
#: How a sweep's end is called in MLflow.
STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
#: Unless the environment says otherwise: no minutes of patience with a server, and no talk on standard output.
SERVER_MANNERS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Mirror:
    """Copies one run's ledger to MLflow. Cheap to make: MLflow is contacted by the first `sync`.

    One `sync` may take as long as the server's timeout; call it where nothing waits for it.

    Args:
        run: The run's folder, with `run.json` and the ledger.
        uri: Tracking URI: `sqlite:///FILE`, `postgresql://...`, `http://...`.
        experiment: Name of the experiment; made if there is none.
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
        artifact_root: Path | None = None,
        connect: Callable[[str], MlflowClient] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.uri = absolute_uri(uri)
        self.last_error: str | None = None
        self.experiment_id: str | None = None
        self._experiment = experiment
        self._artifact_root = (artifact_root or run.parent / "mlflow-artifacts").absolute()
        self._connect = connect or _connect
        self._clock = clock
        self._retry_at = -float("inf")
        self._reader = LedgerReader(run)
        self._tail = Tail(self._reader)
        self._sweep: dict[str, Any] = json.loads((run / "run.json").read_bytes())
        self._story = Story(self._sweep["objective"]["mode"], self._sweep.get("hparams", {}))
        self._pending: list[Entry] = []
        self._mirrored: dict[str, int] = dict.fromkeys(self._tail.seen, 0)
        self._client: MlflowClient | None = None
        self._runs: dict[Who, Run] = {}
        self._certain = False  # whether `_runs` is what MLflow has
        self._tags_sent: dict[Who, dict[str, str]] = {}
        self._ending: _Ending | None = None

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
        return self._runs[None].info.run_id if None in self._runs else None

    @property
    def member_ids(self) -> dict[int, str]:
        """MLflow's ids of the members' runs."""
        return {who: run.info.run_id for who, run in self._runs.items() if who is not None}

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
        sent = 0
        try:
            with _quiet():
                self._open()
                while self._pending:
                    sent += self._send(self._pending[:CHUNK_ROWS])
                self._end()
            self.last_error = None
        except Exception as error:
            # Whatever it is (server, database, network, disk): training goes on. What was half done is looked up again.
            self.last_error = first_line(error).replace(self.uri, _without_password(self.uri))
            self._certain = False
            self._retry_at = self._clock() + RETRY_S
        return sent

    # ------------------------------------------------------------------------------------------------ opening

    def _open(self) -> None:
        """Find or make the experiment and the parent run, and drop the rows that are there already."""
        if self._certain:
            return
        self._client = self._client or self._connect(self.uri)
        self.experiment_id = self._find_experiment()
        found = self._find_runs()
        if None not in found:
            found[None] = self._create_parent()
        self._describe_parent(found[None])
        self._skip(json.loads(found[None].data.tags.get("pbt.cursor", "{}")))
        self._runs, self._tags_sent, self._certain = found, {}, True
        if self._pending:
            self._wake()

    def _find_experiment(self) -> str:
        client = self._the_client()
        if found := client.get_experiment_by_name(self._experiment):
            return str(found.experiment_id)
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(self._experiment, self._artifact_location(), kind))

    def _artifact_location(self) -> str | None:
        if _is_server(self.uri):
            return None
        return (self._artifact_root / quote(self._experiment, safe="")).as_uri()

    def _find_runs(self) -> dict[Who, Run]:
        """The runs that are there. Where an answer once got lost and a run was made twice, the empty one goes."""
        tags = _origin(self._sweep)
        rows = self._search(" and ".join(f"tags.`{name}` = '{tags[name]}'" for name in ("pbt.run_id", "pbt.created")))
        rows.sort(key=lambda run: (not run.data.metrics, run.info.start_time, run.info.run_id))
        found: dict[Who, Run] = {}
        for run in rows:
            member = run.data.tags.get("pbt.member")
            if found.setdefault(None if member is None else int(member), run) is not run:
                self._the_client().delete_run(run.info.run_id)
        return found

    def _search(self, condition: str) -> list[Run]:
        rows: list[Run] = []
        token = None
        while True:
            page = self._the_client().search_runs(
                [self.experiment_id], condition, ViewType.ACTIVE_ONLY, max_results=1_000, page_token=token
            )
            rows, token = rows + list(page), page.token
            if not token:
                return rows

    def _create_parent(self) -> Run:
        sweep = self._sweep
        tags = {"pbt.kind": "sweep", "pbt.status": "running", **_origin(sweep)}
        tags |= {f"pbt.data.{name}": value for name, value in sweep.get("data", {}).items()}
        tags |= {f"pbt.version.{name}": value for name, value in sweep.get("versions", {}).items()}
        return self._create(sweep["run_id"], tags, milliseconds(sweep["created"]))

    def _describe_parent(self, parent: Run) -> None:
        """Data set and params. The params come last: where all are there, nothing is left to be told."""
        params = {_key(key): _cut(value, PARAM_CHARS) for key, value in sweep_params(self._sweep).items()}
        missing = [Param(key, value) for key, value in params.items() if key not in parent.data.params]
        if missing and (data := self._sweep.get("data")):
            self._the_client().log_inputs(parent.info.run_id, [_dataset(data)])
        for start in range(0, len(missing), BATCH_PARAMS):
            self._the_client().log_batch(parent.info.run_id, params=missing[start : start + BATCH_PARAMS])

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

    def _wake(self) -> None:
        """A sweep that was ended and goes on is running again, and so are its members, but for the failed."""
        for who, run in self._runs.items():
            if run.info.status != "RUNNING" and (who is None or not self._story.failed(who)):
                self._the_client().update_run(run.info.run_id, "RUNNING")
                self._log(who, (), {"pbt.status": "running"})

    def _create(self, name: str, tags: Mapping[str, Any], start_ms: int) -> Run:
        tags = {_key(key): _cut(value, TAG_CHARS) for key, value in tags.items()}
        return self._the_client().create_run(self.experiment_id, start_time=start_ms, tags=tags, run_name=name)

    # ------------------------------------------------------------------------------------------------ sending

    def _send(self, rows: Sequence[Entry]) -> int:
        """Send some rows, then move the cursor past them. Returns how many they were."""
        for who, metrics in self._story.metrics(rows).items():
            if who is not None and who not in self._runs:
                self._runs[who] = self._create_member(who)
            self._log(who, metrics, {} if who is None else self._story.tags(who))
        mirrored = dict(self._mirrored)
        for table, _ in rows:
            mirrored[table] += 1
        self._log(None, (), {"pbt.cursor": canonical(mirrored)})
        self._mirrored = mirrored
        del self._pending[: len(rows)]
        return len(rows)

    def _create_member(self, member: int) -> Run:
        members = self._sweep["spec"]["budget"]["members"]
        tags = {"mlflow.parentRunId": self.parent_id, "pbt.kind": "member", "pbt.member": member}
        name = f"member {member:0{len(str(members - 1))}d}"
        return self._create(name, tags | _origin(self._sweep), milliseconds(self._story.started(member)))

    def _log(self, who: Who, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        metrics = [Metric(_key(point.key), *point[1:]) for point in points]
        run_id, sent = self._runs[who].info.run_id, self._tags_sent.setdefault(who, {})
        tags = {_key(key): _cut(value, TAG_CHARS) for key, value in tags.items()}
        news = [(key, value) for key, value in tags.items() if sent.get(key) != value]
        for number in range(max(-(-len(metrics) // BATCH_METRICS), -(-len(news) // BATCH_TAGS))):
            self._the_client().log_batch(
                run_id,
                metrics=metrics[number * BATCH_METRICS : (number + 1) * BATCH_METRICS],
                tags=[RunTag(*item) for item in news[number * BATCH_TAGS : (number + 1) * BATCH_TAGS]],
            )
        sent.update(news)

    # ------------------------------------------------------------------------------------------------- ending

    def _end(self) -> None:
        if (ending := self._ending) is None:
            return
        client, parent = self._the_client(), str(self.parent_id)
        last_ms = milliseconds(self._story.last_at or self._sweep["created"])
        for member, run_id in self.member_ids.items():
            self._log(member, (), self._story.tags(member) | self._story.verdict(member))
            status = "FAILED" if self._story.failed(member) else STATUS[ending.status]
            client.set_terminated(run_id, status, milliseconds(self._story.ended(member)))
        numbers, words = winner_facts(ending.best)
        if winner := self.member_ids.get(ending.best.get("member", -1)):
            words["pbt.best_run_id"] = winner
        tags = {"pbt.status": ending.status, "pbt.digest": self._reader.digest()} | words
        self._log(None, [Point(name, value, last_ms, 0) for name, value in numbers.items()], tags)
        client.set_terminated(parent, STATUS[ending.status], last_ms)
        for path in ending.artifacts:
            if path.is_dir():
                client.log_artifacts(parent, str(path), path.name)
            elif path.exists():
                client.log_artifact(parent, str(path))
        self._ending = None
        self._certain = False  # should more rows come after all, the runs are to be woken

    def _the_client(self) -> MlflowClient:
        assert self._client is not None
        return self._client


@dataclass(frozen=True, slots=True)
class _Ending:
    """What `finish` was told, kept until it has arrived."""

    status: str
    best: Mapping[str, Any]
    artifacts: tuple[Path, ...]


# ------------------------------------------------------------------------------------------------------- the UI


def ui_command(
    uri: str,
    *,
    experiment_id: str | None = None,
    run_id: str | None = None,
    host: str = "127.0.0.1",
    port: int = 5000,
) -> tuple[str | None, str]:
    """The shell command that opens MLflow's UI on a tracking store, and the address to look at.

    Args:
        uri: Tracking URI.
        experiment_id: The experiment to show.
        run_id: The run of it to show.
        host: Where the UI shall listen.
        port: Where the UI shall listen.

    Returns:
        The command, None where `uri` is itself a server; and the address of the run (or the experiment, or the UI).
        A password in the URI shows as `***`.
    """
    uri = absolute_uri(uri)
    page = "/#/experiments"
    if experiment_id is not None:
        page += f"/{experiment_id}" + (f"/runs/{run_id}" if run_id else "")
    page += "?workflowType=machine_learning"
    if _is_server(uri):
        return None, _without_password(uri).rstrip("/") + page
    words = [_program(), "ui", "--backend-store-uri", _without_password(uri), "--host", host, "--port", str(port)]
    return shlex.join(words), f"http://{host}:{port}{page}"


def absolute_uri(uri: str) -> str:
    """The tracking URI, with a relative SQLite file made absolute.

    Raises:
        SpecError: MLflow cannot track there.
    """
    if not is_trackable(uri):
        mend = "Write sqlite:///FILE, postgresql://USER@HOST/DATABASE or http://HOST:PORT"
        raise SpecError("tracking.uri", f"MLflow cannot track to {uri!r}", mend)
    head, found, file = uri.partition(":///")
    if head.split("+")[0] != "sqlite" or not found:
        return uri
    return f"{head}:///{Path(file).absolute()}"


def _program() -> str:
    """The `mlflow` beside this Python: by its name if the shell finds the same one, else by its path."""
    beside = Path(sys.executable).parent / "mlflow"
    found = shutil.which("mlflow")
    if not beside.exists() or (found and Path(found).samefile(beside)):
        return "mlflow"
    return str(beside)


def _is_server(uri: str) -> bool:
    return not uri.startswith(("sqlite", "postgresql", "mysql", "mssql"))


def _without_password(uri: str) -> str:
    """An address one may show: without user, password and query, if any of them is a secret."""
    if not has_secret(uri):
        return uri
    parts = urlsplit(uri)
    place = parts.hostname or ""
    return f"{parts.scheme}://***@{place}{f':{parts.port}' if parts.port else ''}{parts.path}"


# ----------------------------------------------------------------------------------------------------- small parts


def _connect(uri: str) -> MlflowClient:
    """A client; for a database, the schema is made here, by the one process that writes."""
    if _is_server(uri):
        for name, value in SERVER_MANNERS.items():
            os.environ.setdefault(name, value)
    if uri.startswith("sqlite:///"):
        _make_database(Path(uri.split(":///", 1)[1]))
    return _client(uri)


def _make_database(file: Path) -> None:
    """Make a database aside and put it in place whole: one whose making was interrupted could never be used again."""
    if file.exists():
        if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
            raise StorageError(f"cannot write {file}. Make it and its folder writable, or name another tracking.uri.")
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as folder:
        aside = Path(folder) / file.name
        _client(f"sqlite:///{aside}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another sweep was faster
            os.link(aside, file)


def _client(uri: str) -> MlflowClient:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow 3.17 uses what SQLAlchemy 2.1 deprecates
        return MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MLflow and Alembic tell of every step of a database's making; only their warnings are news."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.WARNING))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _origin(sweep: Mapping[str, Any]) -> dict[str, str]:
    """Tags of every run of a sweep. Two machines may start runs of one name in one second, hence the exact time."""
    user = "unknown"
    with contextlib.suppress(OSError, KeyError):
        user = getpass.getuser()
    named = {"pbt.run_id": str(sweep["run_id"]), "pbt.created": repr(float(sweep["created"]))}
    return named | {"mlflow.user": user, "mlflow.source.name": "pbt"}


def _dataset(data: Mapping[str, Any]) -> DatasetInput:
    """The corpus as MLflow's data set: its name, and the hash found among its provenance (else a hash of that)."""
    hashes = [str(value) for name, value in data.items() if re.search("sha|hash|digest", name)]
    digest = hashes[0] if hashes else hashlib.sha256(canonical(data).encode()).hexdigest()
    name = next((str(data[key]) for key in ("name", "source", "corpus") if key in data), "data")
    source = canonical(data)
    return DatasetInput(Dataset(name[:500], digest[:36], "local", source, profile=source), [])


def _key(name: str) -> str:
    """A name MLflow accepts."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:KEY_CHARS]


def _cut(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
