"""What a shell offers when somebody presses Tab."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_PBT_COMPLETE"


def runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of runs in the folder that `--storage` names, the latest first; and `latest`."""
    storage = Path(context.params.get("storage") or "pbt-runs")
    try:
        found = sorted((it for it in storage.iterdir() if (it / "run.json").is_file()), key=_begun, reverse=True)
    except OSError:
        found = []
    names = ["latest", *(it.name for it in found)] if found else []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def script(command: click.Command, shell: str) -> str:
    """What a shell has to read to complete the words of a command."""
    kind = get_completion_class(shell)
    assert kind is not None, shell
    return kind(command, {}, "pbt", _VARIABLE).source()


def _begun(run: Path) -> float:
    return run.stat().st_mtime
