"""A sweep as plain data: what a sweep file says, what a run folder keeps, and nothing else.

`to_dict` and `from_dict` are exact inverses on JSON-able data, and a YAML sweep file is the same dictionary written in
YAML. Names (of trainables, strategies, spaces) are resolved elsewhere: this module imports nothing of ours.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeGuard
from urllib.parse import parse_qsl, urlsplit

from pbt.errors import SpecError

Mode: TypeAlias = Literal["min", "max"]


def require(ok: bool, field_name: str, problem: str, mend: str) -> None:
    """Raise SpecError unless `ok`."""
    if not ok:
        raise SpecError(field_name, problem, mend)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def at_least(low: int, field_name: str, value: object, mend: str | None = None) -> None:
    """Raise SpecError unless a value is a whole number of at least `low`; by default the mend says just that."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(
        whole and value >= low,  # type: ignore[operator]
        field_name,
        f"{value!r} is not a whole number of at least {low}",
        mend or f"Write a whole number, {low} or more",
    )


def _positive(field_name: str, value: object) -> None:
    ok = value is None or (is_number(value) and 0 < value < math.inf)
    require(ok, field_name, f"{value!r} is not a positive number", "Write a number above 0, or leave it out")


#: Read by pydantic where sweep files are parsed (`pbt.config`): unknown keys are errors.
_STRICT = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """Something chosen by name, with its options: a trainable or a strategy.

    Attributes:
        name: A registered name (`language`, `pbt`) or `module.path:Class`.
        options: Keyword arguments of the class.
    """

    __pydantic_config__ = _STRICT

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What decides who is better.

    Attributes:
        metric: A metric the trainable's `evaluate` reports.
        mode: `min` or `max`; None takes the trainable's own direction.
        split: The split that decides. The test split is for announced winners only.
    """

    __pydantic_config__ = _STRICT

    metric: str
    mode: Mode | None = None
    split: Literal["train", "validation"] = "validation"

    def __post_init__(self) -> None:
        """Refuse unknown modes and the test split."""
        require(
            self.mode in (None, "min", "max"),
            "objective.mode",
            f"{self.mode!r} is unknown",
            "Write min or max",
        )
        require(
            self.split in ("train", "validation"),
            "objective.split",
            f"{self.split!r} may not decide",
            "Write validation (or train); the test split is kept for the announced winner",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much is trained, and what it may cost at most.

    A sweep ends inside every limit, with the best so far saved; None is no limit. Limits hold for the whole sweep,
    interruptions and resumptions included.

    Attributes:
        members: Size of the population.
        generations: Number of segments each member trains, after each of which it is compared, the end included.
        steps: Training steps of every member in every generation.
        tokens: At most so many tokens (or examples), all members together.
        wall_minutes: At most so long, counted while the sweep runs.
        gpu_hours: At most so much time of GPUs, each counting while its stack works; a part of one counts as that part.
        joules: At most so much energy of the GPUs.
    """

    __pydantic_config__ = _STRICT

    members: int
    generations: int
    steps: int
    tokens: int | None = None
    wall_minutes: float | None = None
    gpu_hours: float | None = None
    joules: float | None = None

    def __post_init__(self) -> None:
        """Refuse anything that trains nothing."""
        at_least(1, "budget.members", self.members)
        at_least(1, "budget.generations", self.generations)
        at_least(1, "budget.steps", self.steps)
        if self.tokens is not None:
            at_least(1, "budget.tokens", self.tokens)
        for name in ("wall_minutes", "gpu_hours", "joules"):
            _positive(f"budget.{name}", getattr(self, name))

    @property
    def member_steps(self) -> int:
        """Training steps of the whole sweep, summed over members."""
        return self.members * self.generations * self.steps


_HOST_WORDS = {
    "kind": ("ray", "local"),
    "compile": ("auto", "never", "always"),
    "precision": ("fp32", "tf32", "bf16"),
    "plan": ("auto", "off"),
    "reporter": ("pbt", "tune"),
    "local_storage": ("refuse", "accept"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Where members train.

    Attributes:
        kind: `ray` runs hosts as Ray Tune trials, `local` in this process.
        stacks: Number of stacks the population is divided into; None takes one per core or GPU at hand, and no
            more than there are members. Decisions are reproducible at equal `stacks`.
        device: `auto` takes CUDA where there is any, else the CPU.
        compile: Whether stacks compile their step: `auto`, `never` or `always`.
        precision: Of the model's arithmetic: `fp32`, `tf32` (NVIDIA GPUs only, elsewhere fp32) or `bf16`. Parameters
            and optimizer are float32 with all of them.
        plan: `auto` has hosts measure how a stack runs fastest, where there is more than a minute to train; `off` runs
            all its members together. What was measured is recorded, and kept to when the sweep goes on.
        gpus: GPUs that a host takes under Ray, where it trains on one: with 0.5 two hosts share a GPU, and its memory.
        ranks: Processes that share a member, under Ray: more than one where a member is too large for one device.
            Each takes a core or its `gpus`, and every member has a stack of its own.
        retries: How often in a row a stack may be lost, with its host, without training anything in between. After
            that the sweep ends with an error, and can be resumed.
        hang_minutes: Minutes that a host may take for one order, or ten times as long as the longest order so far if
            that is more; then it is taken to hang, and is started anew. `ray` only.
        reporter: Whose progress display is shown: `pbt`, or Ray Tune's status of hosts (`tune`) beside lines of ours.
        local_storage: What of a storage folder that other nodes of the cluster do not see: `refuse` it, because the run
            would be lost with this node, or `accept` that.
        address: Ray cluster to join, for example `auto`; None takes `RAY_ADDRESS`, or starts Ray on this machine.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["ray", "local"] = "ray"
    stacks: int | None = None
    device: str = "auto"
    compile: Literal["auto", "never", "always"] = "auto"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    plan: Literal["auto", "off"] = "auto"
    gpus: float = 1.0
    ranks: int = 1
    retries: int = 5
    hang_minutes: float = 60.0
    reporter: Literal["pbt", "tune"] = "pbt"
    local_storage: Literal["refuse", "accept"] = "refuse"
    address: str | None = None

    def __post_init__(self) -> None:
        """Refuse unknown kinds and empty stacks."""
        for name, known in _HOST_WORDS.items():
            value = getattr(self, name)
            require(
                value in known,
                f"hosts.{name}",
                f"{value!r} is unknown",
                f"Write {', '.join(known[:-1])} or {known[-1]}",
            )
        for name, default in {"reporter": "pbt", "address": None}.items():
            value = getattr(self, name)
            require(
                self.kind == "ray" or value == default,
                f"hosts.{name}",
                f"is {value!r}, but hosts.kind is local",
                f"Leave the {name} out, or write kind: ray",
            )
        if self.stacks is not None:
            at_least(1, "hosts.stacks", self.stacks)
        require(
            is_number(self.gpus) and 0 < self.gpus <= 1,
            "hosts.gpus",
            f"is {self.gpus!r}",
            "Write 1, or the part of a GPU that is enough for a host, such as 0.5",
        )
        at_least(1, "hosts.ranks", self.ranks)
        require(
            self.ranks == 1 or self.kind == "ray",
            "hosts.ranks",
            f"is {self.ranks}, but hosts.kind is local",
            "Write 1, or kind: ray",
        )
        at_least(0, "hosts.retries", self.retries)
        minutes = self.hang_minutes
        require(minutes > 0, "hosts.hang_minutes", f"is {minutes!r}", "Write a number of minutes above 0")


#: Where MLflow can keep runs: databases and servers.
_TRACKING_SCHEMES = frozenset({"sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks", "uc"})


def is_trackable(uri: str) -> bool:
    """Whether MLflow can keep runs at an address."""
    try:
        return urlsplit(uri).scheme.split("+")[0] in _TRACKING_SCHEMES
    except ValueError:  # `http://[::1`
        return False


def has_secret(uri: str) -> bool:
    """Whether an address carries a password, or a token where a password would be."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # `http://[::1`
        return False
    token = parts.username if parts.scheme in ("http", "https") else None
    secrets = [name for name, _ in parse_qsl(parts.query) if re.search("pass|token|secret|key", name.lower())]
    return bool(parts.password or token or secrets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """The MLflow mirror.

    Attributes:
        enabled: False leaves MLflow alone.
        uri: Tracking URI; None takes that of `MLFLOW_TRACKING_URI`, or else a SQLite file in the storage folder.
        experiment: Experiment name; None takes the sweep's name.
        segment_runs: Segments get runs of their own, below their members', where members x generations is at most
            this; a run costs a few hundredths of a second. 0 is never. Settled when the sweep is begun.
    """

    __pydantic_config__ = _STRICT

    enabled: bool = True
    uri: str | None = None
    experiment: str | None = None
    segment_runs: int = 200

    def __post_init__(self) -> None:
        """Refuse what MLflow cannot track to, and a password, which would be recorded with the run."""
        at_least(0, "tracking.segment_runs", self.segment_runs)
        if self.uri is None:
            return
        # First, so that no message shows it.
        require(
            not has_secret(self.uri),
            "tracking.uri",
            "holds a password, which does not belong into a sweep",
            "Leave it out and set MLFLOW_TRACKING_URI in the environment",
        )
        require(
            is_trackable(self.uri),
            "tracking.uri",
            f"MLflow cannot track to {self.uri!r}",
            "Write sqlite:///FILE, postgresql://USER@HOST/DATABASE or http://HOST:PORT",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """How much training a crash can cost, and how much disk that may take.

    A member is saved at the end of a segment once it has trained `every_steps` steps, or `every_minutes` have gone by,
    since it was saved last. Training does not wait for the disk. What is not saved is trained again by `pbt resume`,
    from what is. At the end, and when a sweep is stopped, every living member is saved.

    Attributes:
        every_steps: Steps of the member; None does not count them.
        every_minutes: Minutes; None does not count them.
        keep: Checkpoints to keep in the ancestry of every living member. Others are removed, the winner's never.
    """

    __pydantic_config__ = _STRICT

    every_steps: int | None = None
    every_minutes: float | None = 5.0
    keep: int = 2

    def __post_init__(self) -> None:
        """Refuse what saves nothing by mistake."""
        if self.every_steps is not None:
            at_least(1, "checkpoints.every_steps", self.every_steps)
        _positive("checkpoints.every_minutes", self.every_minutes)
        at_least(1, "checkpoints.keep", self.keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """One sweep, whole.

    Attributes:
        name: Letters, digits, `.`, `_`, `-`; run folders begin with it.
        trainable: What is trained.
        space: What may vary: the name of a ready space, or `{hyperparameter: {type: float, low: ..., high: ...}}`.
        strategy: Who is trained next, and with what. `default` is `mf_pb2` for 8 to 64 members in 5 generations or
            more, `pb2` for less, and `pbt` for more members, where chance finds what a model would.
        objective: What decides who is better.
        budget: How much is trained.
        seed: The only source of randomness.
        hosts: Where members train.
        storage: Folder that holds the runs and, by default, MLflow's database.
        tracking: The MLflow mirror.
        checkpoints: When members are saved.
        archive: Folder, or address on any pyarrow filesystem (`s3://BUCKET/PATH`), below which the ledgers' sealed
            parts are kept; None keeps them with the run.
    """

    __pydantic_config__ = _STRICT

    trainable: Component
    space: str | Mapping[str, Any]
    objective: Objective
    budget: Budget
    strategy: Component = field(default_factory=lambda: Component(name="default"))
    name: str = "sweep"
    seed: int = 0
    hosts: Hosts = field(default_factory=Hosts)
    storage: str = "pbt-runs"
    tracking: Tracking = field(default_factory=Tracking)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    archive: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that cannot be folders, and seeds that cannot seed."""
        ok = isinstance(self.name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.name)
        require(
            bool(ok),
            "name",
            f"{self.name!r} cannot name a folder",
            "Use at most 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        )
        if self.strategy.name == "default":  # settled here, so that the record names the strategy
            usual = dataclasses.replace(self.strategy, name=usual_strategy(self.budget))
            object.__setattr__(self, "strategy", usual)
        at_least(0, "seed", self.seed)
        require(self.seed < 2**63, "seed", f"{self.seed} is too large", "Use a number below 2**63")
        require(
            bool(self.space),
            "space",
            "is empty",
            "Name at least one hyperparameter, or a ready space",
        )
        require(bool(self.storage), "storage", "is empty", "Name a folder")
        require(self.archive != "", "archive", "is empty", "Name a folder or an address, or leave it out")
        # First of all checks of it, so that no message shows it.
        secret = self.archive is not None and has_secret(self.archive)
        require(not secret, "archive", "holds a password, which would be recorded", "Keep it in the environment")
        for part, component in (("trainable", self.trainable), ("strategy", self.strategy)):
            require(bool(component.name), f"{part}.name", "is empty", "Write a registered name or module.path:Class")


def usual_strategy(budget: Budget) -> str:
    """The strategy that a sweep has unless it names another.

    Sub-populations of four are the least that can evolve by quarters, and there are two; one of them evolves after each
    fourth generation, which must not be the last. Each exploit costs the bandit some tenths of a second: many members
    do as well by chance.
    """
    if budget.members < 8 or (budget.members <= 64 and budget.generations <= 4):
        return "pb2"
    return "mf_pb2" if budget.members <= 64 else "pbt"


def to_dict(spec: SweepSpec) -> dict[str, Any]:
    """The spec as JSON-able data; `from_dict` gives it back, equal."""
    return {name: _plain(value, name) for name, value in dataclasses.asdict(spec).items()}


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(where, f"{value!r} cannot be written to a sweep file", "Use a finite number")
    return value


def from_dict(data: Mapping[str, Any]) -> SweepSpec:
    """Build a spec from what `to_dict` gave. Hand-written data goes through `pbt.config`, which explains mistakes."""
    parts = dict(data)
    for key, kind in PARTS.items():
        if key in parts:
            parts[key] = kind(**parts[key])
    return SweepSpec(**parts)


#: Fields of `SweepSpec` that are dataclasses themselves.
PARTS: dict[str, Any] = {
    "trainable": Component,
    "strategy": Component,
    "objective": Objective,
    "budget": Budget,
    "hosts": Hosts,
    "tracking": Tracking,
    "checkpoints": Checkpoints,
}
