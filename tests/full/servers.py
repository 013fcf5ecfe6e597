"""An `mlflow server` of one's own on loopback, that can be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.postgres import free_port


@dataclass
class Server:
    """`mlflow server` on a SQLite file."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = {
            "backend-store-uri": f"sqlite:///{self.folder / 'mlflow.db'}",
            "artifacts-destination": self.folder / "artifacts",
            "host": "127.0.0.1",
            "port": self.port,
            "workers": 1,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        manners = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                env=os.environ | manners,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        for _ in range(600):
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.1)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
