"""Where MLflow is: tracking addresses, a client for one, and the page that shows it."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient

from pbt.errors import SpecError, StorageError
from pbt.spec import has_secret, is_trackable

#: Unless the environment says otherwise: no minutes of patience with a server, and no talk on standard output.
SERVER_MANNERS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
#: MLflow's UI starts processes for jobs of its own, which nobody here needs. `env` sets this in any shell.
_NO_JOBS = ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",)
#: Who talks about a database's making, and prints the traceback of an error besides raising it.
_TALKERS = ("mlflow", "alembic", "sqlalchemy")


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


def is_server(uri: str) -> bool:
    """Whether a server answers there; else it is a database."""
    return not uri.startswith(("sqlite", "postgresql", "mysql", "mssql"))


def without_password(uri: str) -> str:
    """An address one may show: without user, password and query, if any of them is a secret."""
    if not has_secret(uri):
        return uri
    parts = urlsplit(uri)
    place = parts.hostname or ""
    return f"{parts.scheme}://***@{place}{f':{parts.port}' if parts.port else ''}{parts.path}"


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
    if is_server(uri):
        return None, without_password(uri).rstrip("/") + page
    words = [
        "env",
        *_NO_JOBS,
        _program(),
        "ui",
        "--backend-store-uri",
        without_password(uri),
        "--host",
        host,
        "--port",
        str(port),
    ]
    return shlex.join(words), f"http://{host}:{port}{page}"


def _program() -> str:
    """The `mlflow` beside this Python: by its name if the shell finds the same one, else by its path."""
    beside = Path(sys.executable).parent / "mlflow"
    found = shutil.which("mlflow")
    if not beside.exists() or (found and Path(found).samefile(beside)):
        return "mlflow"
    return str(beside)


# ------------------------------------------------------------------------------------------------------ the client


def connect(uri: str) -> MlflowClient:
    """A client; for a database, the schema is made here, by the one process that writes."""
    if is_server(uri):
        for name, value in SERVER_MANNERS.items():
            os.environ.setdefault(name, value)
    if uri.startswith("sqlite:///"):
        make_database(Path(uri.split(":///", 1)[1]))
    return _client(uri)


def make_database(file: Path) -> None:
    """Make a database aside and put it in place whole: one whose making was interrupted could never be used again.

    Raises:
        StorageError: It is there, and cannot be written.
    """
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
def quiet() -> Iterator[None]:
    """Nothing is printed meanwhile: of an error we say one line of our own."""
    loggers = [logging.getLogger(name) for name in _TALKERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
