"""Sweeps as jobs of a Ray cluster: given to it from anywhere, followed from anywhere, alive when nobody looks.

The cluster's own Python runs the sweep on the head node. What travels there is the folder of the sweep file, so that
modules beside it are found; nothing is installed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from pbt.errors import HostError, SpecError, first_line

#: Beside a sweep file, and no part of it.
_LEFT_HERE = [".git", ".venv", "pbt-runs", "pbt-demo", "__pycache__", "*.pt", "*.ckpt", "*.safetensors"]
#: Seconds that the connection to the cluster may be gone while a job is followed, and between two attempts.
_PATIENCE_S, _AGAIN_S = 300.0, 2.0
_ENDS = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED}
#: A sweep that is told to stop ends the segments it is at, and saves: Ray would kill it after three seconds.
_ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": "600"}
#: Of Ray's loggers, those that tell of every package that is sent and every connection that is closed.
_TALKERS = tuple(
    f"ray.{name}"
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")
)
#: Exit codes of ends, as `pbt run` has them.
_CODES = {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 130}


def connect(address: str) -> JobSubmissionClient:
    """A client of a cluster's jobs.

    Args:
        address: Of its dashboard, such as `http://127.0.0.1:8265`; `auto` is the cluster this node belongs to.

    Raises:
        SpecError: Nobody answers there, or the token is not the cluster's.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # to Ray, these count more than what it is told
        os.environ.pop(name, None)
    for name in _TALKERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except (AuthenticationError, RuntimeError, ValueError, OSError) as error:
        problem = f"no cluster takes jobs at {address!r} ({first_line(error)})"
        if isinstance(error, AuthenticationError):
            mend = "Set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to the token the cluster was started with"
            if os.environ["RAY_AUTH_MODE"] == "token":
                mend += "; for a cluster without one, set RAY_AUTH_MODE=disabled"
            raise SpecError("--address", problem, mend) from error
        mend = "Start one with `ray start --head`, or forward the port of its dashboard: ray dashboard cluster.yaml"
        raise SpecError("--address", problem, mend) from error


def submit(
    client: JobSubmissionClient, name: str, folder: Path, arguments: Sequence[str], python: str = sys.executable
) -> str:
    """Give a job to the cluster.

    Args:
        client: Of the cluster.
        name: What its id begins with.
        folder: What travels there, and is its working folder.
        arguments: Of `pbt`.
        python: The cluster's own interpreter, an absolute path on its head node.

    Returns:
        Its id.

    Raises:
        SpecError: The cluster does not take it.
    """
    job = f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    environment: dict[str, Any] = {"working_dir": str(folder), "excludes": _LEFT_HERE, "env_vars": _ENVIRONMENT}
    entrypoint = shlex.join([python, "-m", "pbt", *arguments])
    try:
        return str(client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=environment))
    except (RuntimeError, ValueError, OSError) as error:
        problem = f"the cluster did not take the job ({first_line(error)})"
        raise SpecError("submit", problem, f"Keep large files out of {folder}: all of it travels") from error


def follow(client: JobSubmissionClient, job: str, echo: Callable[[str], None]) -> int:
    """Pass on what a job prints until it ends, from its beginning.

    Args:
        client: Of the cluster.
        job: Its id.
        echo: Takes text, which holds its own line ends.

    Returns:
        The exit code of its sweep: 0 finished, 1 failed, 130 stopped.

    Raises:
        SpecError: There is no such job.
        HostError: The cluster has not answered for minutes.
    """
    told, since = 0, time.monotonic()
    status(client, job)
    while True:
        try:
            told = asyncio.run(_pass_on(client, job, echo, told))
            state = client.get_job_status(job)
            since = time.monotonic()
        except (RuntimeError, OSError) as error:
            if time.monotonic() - since > _PATIENCE_S:
                told_so = f"the cluster no longer answers ({first_line(error)}). Look again with `pbt watch`"
                raise HostError(told_so) from error
        else:
            if state in _ENDS:
                return _CODES.get(state, 1)
        time.sleep(_AGAIN_S)


def status(client: JobSubmissionClient, job: str) -> str:
    """How a job is doing, in a word.

    Raises:
        SpecError: There is no such job.
    """
    try:
        return str(client.get_job_status(job).value).lower()
    except RuntimeError as error:
        jobs = sorted(it.submission_id for it in client.list_jobs() if it.submission_id)
        known = ", ".join(jobs[-5:]) or "none"
        raise SpecError("job", f"the cluster has no {job!r}", f"The latest it has: {known}") from error


def stop(client: JobSubmissionClient, job: str) -> None:
    """Ask a job to stop: it saves what it can and ends.

    Raises:
        SpecError: There is no such job.
    """
    status(client, job)
    client.stop_job(job)


async def _pass_on(client: JobSubmissionClient, job: str, echo: Callable[[str], None], told: int) -> int:
    """Pass on what was not told yet; how many characters have been, in all."""
    seen = 0
    async for text in client.tail_job_logs(job):
        new = text[max(0, told - seen) :]
        seen += len(text)
        if new:
            echo(new)
            told = seen
    return told
