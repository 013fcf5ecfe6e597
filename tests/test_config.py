"""Sweep files: YAML as people write it, exact round trips, and mistakes explained in one line."""

import re

import pytest
import yaml
from hypothesis import HealthCheck, given

from pbt.config import parse, read_sweep, read_value, write_sweep
from pbt.errors import SpecError
from pbt.spec import Budget, Component, Objective, SweepSpec, to_dict
from tests.examples import examples
from tests.test_spec import specs

SWEEP = """\
trainable:
  name: quadratic
space: quadratic
objective: {metric: Q}
budget: {members: 2, generations: 3, steps: 4}
"""


@pytest.fixture
def read(tmp_path):
    """Read a sweep file of this text."""

    def read_(text, overrides=None):
        path = tmp_path / "sweep.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_sweep(path, overrides)

    return read_


def data(**changes):
    """A sweep as data, with changes by dotted key (`__`); None removes."""
    found = yaml.safe_load(SWEEP)
    for key, value in changes.items():
        part = found
        *path, last = key.split("__")
        for name in path:
            part = part.setdefault(name, {})
        part[last] = value
        if value is None:
            del part[last]
    return found


def message(call, *arguments):
    """The one line with which it is refused."""
    with pytest.raises(SpecError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- reading and writing


def test_the_smallest_sweep(read):
    """Names what is trained, what may vary, what decides and how much."""
    assert read(SWEEP) == SweepSpec(
        trainable=Component(name="quadratic"),
        space="quadratic",
        objective=Objective(metric="Q"),
        budget=Budget(members=2, generations=3, steps=4),
    )


@examples(50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spec=specs())
def test_written_sweeps_are_read_back_equal(read, spec):
    """Every sweep, through YAML text and through its data."""
    assert read(write_sweep(spec)) == spec
    assert parse(to_dict(spec)) == spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        ("-1e4", -1e4),
        ("+1e4", 1e4),
        (".5", 0.5),
        ("1.", 1.0),
        ("1.5e+3", 1500.0),
        ("0.1", 0.1),
        ("3", 3),
        ("-3", -3),
        ("0", 0),
        ("007x", "007x"),
        ("1e", "1e"),
        ("e4", "e4"),
        ("1e-4.0", "1e-4.0"),
        ("'1e-4'", "1e-4"),
        ('"3"', "3"),
        ("true", True),
        ("null", None),
        ("cuda:0", "cuda:0"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_numbers_are_numbers(read, text, value):
    """`1e-4` is a number and not a word, as in YAML 1.2; quoted it is a word."""
    spec = read(f"{SWEEP}strategy: {{name: pbt, options: {{x: {text}}}}}")
    assert repr(spec.strategy.options["x"]) == repr(value)


@pytest.mark.parametrize("word", ["1e-4", "1.", ".5", "3", "0x1f", "true", "null", "~", "", "2024-01-01", "1_000"])
def test_words_that_look_like_something_else_stay_words(read, word):
    """As values and as keys."""
    spec = parse(data(strategy={"name": "pbt", "options": {"x": word, word: 1}}))
    assert read(write_sweep(spec)).strategy.options == {"x": word, word: 1}


def test_anchors_and_merge_keys_work(read):
    """What is written once may be used twice, with changes."""
    text = SWEEP.replace("{metric: Q}", "&o {metric: Q, split: train}")
    assert read(text).objective == Objective(metric="Q", split="train")
    text = SWEEP + "strategy: &s {name: pbt, options: {quantile: 0.5}}\nhosts: {kind: local}\n"
    merged = text.replace("  name: quadratic", "  <<: {name: fixed, options: {a: 1}}\n  name: quadratic")
    assert read(merged).trainable == Component(name="quadratic", options={"a": 1})


@pytest.mark.parametrize("space", ["adamw", {"lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True}}])
def test_a_space_is_a_name_or_a_mapping(read, space):
    """Both are kept as they are; spaces are resolved elsewhere."""
    assert read(yaml.safe_dump(data(space=space))).space == space


def test_unicode_is_kept(read):
    """In UTF-8, with or without a byte order mark."""
    text = SWEEP + "storage: läufe/学习\n"
    assert read(text).storage == read(b"\xef\xbb\xbf" + text.encode()).storage == "läufe/学习"


# --- mistakes in the file


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1", r"is not valid YAML: .*"),
        ("a: 1\na: 2\n", r"is not valid YAML: 'a' is written twice, line 1.*"),
        (SWEEP + "budget: {members: 3}\n", r"is not valid YAML: 'budget' is written twice, .*"),
        (SWEEP.replace("steps: 4", "steps: 4, steps: 4"), r"is not valid YAML: 'steps' is written twice, line 5.*"),
        ("a: !!python/object:os.system x", r"is not valid YAML: could not determine a constructor .*"),
        ("a: \tb", r"is not valid YAML: .*"),
        ("{a: 1, [b]: 2}", r"is not valid YAML: .*unhashable.*"),
        (SWEEP + "name: 2024-13-45", r"is not valid YAML: month must be in 1\.\.12"),
        (SWEEP + "seed: !!int x", r"is not valid YAML: invalid literal .*"),
        (SWEEP + "seed: " + "1" * 5000, r"is not valid YAML: Exceeds the limit .*"),
        ("a: !!map b", r"is not valid YAML: expected a mapping node, but found scalar, .*"),
        ("a\x00b", r"is not valid YAML: .*special characters.*"),
        (b"\xff\xfe\x00\x01", "is not text"),
        (bytes(range(256)), "is not text"),
        ("", "is not a sweep"),
        ("# nothing but a comment\n", "is not a sweep"),
        ("quadratic", "is not a sweep"),
        ("- a\n- b\n", "is not a sweep"),
        ("3", "is not a sweep"),
    ],
)
def test_files_that_hold_no_sweep(read, tmp_path, text, problem):
    """The message begins with the file's name."""
    mends = {
        "is not text": "Write it as YAML in UTF-8",
        "is not a sweep": "Begin with `trainable:`; see examples/language.yaml",
    }
    mend = mends.get(problem, "Mend it there")
    found = message(read, text)
    assert re.fullmatch(re.escape(f"{tmp_path / 'sweep.yaml'}: ") + problem + re.escape(f". {mend}"), found), found


@pytest.mark.parametrize(("name", "reason"), [("missing.yaml", "No such file or directory"), (".", "Is a directory")])
def test_files_that_cannot_be_read(tmp_path, name, reason):
    """With the system's reason."""
    path = tmp_path / name
    assert message(read_sweep, path) == f"{path}: cannot be read ({reason}). Check the path"


# --- mistakes in the sweep

KEYS = "archive, budget, checkpoints, hosts, name, objective, seed, space, storage, strategy, tracking, trainable"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # unknown keys
        ({"bugdet": 3}, "bugdet: is not a known key. Did you mean 'budget'?"),
        ({"xyzzy": 3}, f"xyzzy: is not a known key. Known: {KEYS}."),
        ({"int": 3}, "int: is not a known key. *"),
        ({"str": 3}, "str: is not a known key. *"),
        ({"a[b": 3}, "a[b: is not a known key. *"),
        ({"budget__member": 3}, "budget.member: is not a known key. Did you mean 'members'?"),
        ({"budget__dict": 3}, "budget.dict: is not a known key. *"),
        ({"hosts__stack": 3}, "hosts.stack: is not a known key. Did you mean 'stacks'?"),
        ({"tracking__url": "x"}, "tracking.url: is not a known key. Did you mean 'uri'?"),
        ({"strategy": {"name": "pbt", "option": {}}}, "strategy.option: is not a known key. Did you mean 'options'?"),
        ({"objective__Metric": "Q"}, "objective.Metric: is not a known key. Did you mean 'metric'?"),
        # missing keys
        ({"budget": None}, "budget: is missing. Add `budget:`"),
        ({"space": None}, "space: is missing. Add `space:`"),
        ({"trainable": None}, "trainable: is missing. Add `trainable:`"),
        ({"objective": None}, "objective: is missing. Add `objective:`"),
        ({"trainable__name": None}, "trainable.name: is missing. Add `name:`"),
        ({"budget__steps": None}, "budget.steps: is missing. Add `steps:`"),
        ({"objective__metric": None}, "objective.metric: is missing. Add `metric:`"),
        ({"strategy": {"options": {}}}, "strategy.name: is missing. Add `name:`"),
        # wrong types
        ({"budget": 3}, "budget: 3 is not a mapping. Write a mapping with the keys members, generations, steps, *"),
        ({"trainable": "x"}, "trainable: 'x' is not a mapping. Write a mapping with the keys name, options"),
        ({"strategy": ["pbt"]}, "strategy: ['pbt'] is not a mapping. Write a mapping with the keys name, options"),
        ({"hosts": False}, "hosts: False is not a mapping. Write a mapping with the keys kind, *"),
        ({"budget__members": "3"}, "budget.members: '3' is wrong. It should be a valid integer"),
        ({"budget__members": 2.0}, "budget.members: 2.0 is wrong. It should be a valid integer"),
        ({"budget__members": True}, "budget.members: True is wrong. It should be a valid integer"),
        ({"budget__steps": [4]}, "budget.steps: [4] is wrong. It should be a valid integer"),
        ({"seed": "0"}, "seed: '0' is wrong. It should be a valid integer"),
        ({"name": 3}, "name: 3 is wrong. It should be a valid string"),
        ({"storage": ["a"]}, "storage: ['a'] is wrong. It should be a valid string"),
        ({"space": 3}, "space: 3 is wrong. It should be the name of a ready space, or a mapping"),
        ({"space": ["lr"]}, "space: ['lr'] is wrong. It should be the name of a ready space, or a mapping"),
        ({"objective__metric": 3}, "objective.metric: 3 is wrong. It should be a valid string"),
        ({"objective__mode": "up"}, "objective.mode: 'up' is wrong. It should be 'min' or 'max'"),
        ({"objective__split": "test"}, "objective.split: 'test' is wrong. It should be 'train' or 'validation'"),
        ({"hosts__kind": "slurm"}, "hosts.kind: 'slurm' is wrong. It should be 'ray' or 'local'"),
        ({"hosts__stacks": "2"}, "hosts.stacks: '2' is wrong. It should be a valid integer"),
        ({"hosts__device": 0}, "hosts.device: 0 is wrong. It should be a valid string"),
        ({"hosts__compile": True}, "hosts.compile: True is wrong. It should be 'auto', 'never' or 'always'"),
        ({"tracking__enabled": "yes"}, "tracking.enabled: 'yes' is wrong. It should be a valid boolean"),
        ({"tracking__uri": 5000}, "tracking.uri: 5000 is wrong. It should be a valid string"),
        ({"tracking__segment_runs": "all"}, "tracking.segment_runs: 'all' is wrong. It should be a valid integer"),
        ({"trainable__options": [1]}, "trainable.options: [1] is wrong. It should be a mapping"),
        ({"strategy": {"name": 3}}, "strategy.name: 3 is wrong. It should be a valid string"),
        # out of range
        (
            {"budget__members": 0},
            "budget.members: 0 is not a whole number of at least 1. Write a whole number, 1 or more",
        ),
        ({"hosts__stacks": 0}, "hosts.stacks: 0 is not a whole number of at least 1. Write a whole number, 1 or more"),
        ({"seed": -1}, "seed: -1 is not a whole number of at least 0. Write a whole number, 0 or more"),
        ({"seed": 2**63}, f"seed: {2**63} is too large. Use a number below 2**63"),
        ({"seed": 10**30}, f"seed: {10**30} is too large. Use a number below 2**63"),
        ({"name": "a/b"}, "name: 'a/b' cannot name a folder. *"),
        ({"space": {}}, "space: is empty. Name at least one hyperparameter, or a ready space"),
        (
            {"trainable__name": ""},
            "trainable.name: is empty. Write a registered name or module.path:Class",
        ),
    ],
)
def test_mistakes_are_explained(changes, expected):
    """With the key as it was written, the value, and the mend; nothing is converted in silence."""
    found = message(parse, data(**changes))
    assert found.startswith(expected[:-1]) if expected.endswith("*") else found == expected


@pytest.mark.parametrize("value", [None, 3, "x", ["a"]])
def test_a_sweep_that_is_no_mapping_is_refused(value):
    """Also where no file was read."""
    assert "is not a mapping" in message(parse, value)


@pytest.mark.parametrize("text", ["2020-01-01", "!!binary aGk=", "!!set {a, b}"])
def test_yaml_that_json_does_not_know_is_refused(read, text):
    """Dates and the like: a sweep must be recordable."""
    found = message(read, f"{SWEEP}strategy: {{name: pbt, options: {{x: {text}}}}}")
    assert re.fullmatch(r"sweep: holds something YAML data cannot: .* Use plain values", found)


def test_a_sweep_that_holds_itself_is_refused(read):
    """An alias inside its own anchor."""
    found = message(read, SWEEP + "strategy: &s {name: pbt, options: {again: *s}}\n")
    assert found == "sweep: holds something YAML data cannot: Circular reference detected. Use plain values"


# --- overrides


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, {}),
        ({"seed": 7}, {"seed": 7}),
        (
            {"budget.members": 9, "budget.generations": 5},  # for which another strategy is usual
            {"budget": Budget(members=9, generations=5, steps=4), "strategy": Component(name="mf_pb2")},
        ),
        (
            {"trainable.options.data": "corpus.txt"},
            {"trainable": Component(name="quadratic", options={"data": "corpus.txt"})},
        ),
        (
            {"trainable.options.deep.down": 1, "trainable.options.deep.under": 2},
            {"trainable": Component(name="quadratic", options={"deep": {"down": 1, "under": 2}})},
        ),
        ({"strategy.name": "fixed"}, {"strategy": Component(name="fixed")}),
        ({"storage": "a", "name": "b"}, {"storage": "a", "name": "b"}),
    ],
)
def test_overrides_replace_values(read, overrides, expected):
    """By dotted key, whether the file had them or not; the rest stays."""
    before, after = read(SWEEP), read(SWEEP, overrides)
    for name in ("trainable", "space", "objective", "budget", "strategy", "name", "seed", "storage"):
        assert getattr(after, name) == expected.get(name, getattr(before, name))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"sed": 7}, "sed: is not a known key. Did you mean 'seed'?"),
        ({"seed": "7"}, "seed: '7' is wrong. It should be a valid integer"),
        ({"space.lr": 7}, "space: 'quadratic' is not a mapping. Write `name:` and `options:` below it"),
        ({"seed.a.b": 7}, "seed: 0 is not a mapping. Write `name:` and `options:` below it"),
        (
            {"trainable.name.x.y": 7},
            "trainable.name: 'quadratic' is not a mapping. Write `name:` and `options:` below it",
        ),
    ],
)
def test_overrides_are_checked_like_the_file(read, overrides, expected):
    """The key that stands in the way is named."""
    assert message(read, SWEEP + "seed: 0\n", overrides) == expected


@pytest.mark.parametrize(
    ("written", "value"),
    [("64", 64), ("1e-3", 0.001), ("true", True), ("mup", "mup"), ("[text, code]", ["text", "code"]), ("", None)],
)
def test_a_single_value_is_read_as_in_a_file(written, value):
    """Numbers, words and lists, for options of the command line."""
    assert read_value(written) == value
    assert type(read_value(written)) is type(value)


def test_a_single_value_that_is_no_yaml_is_refused():
    """It is quoted in the message."""
    with pytest.raises(SpecError, match=r"'\[': is not valid YAML"):
        read_value("[")


def test_off_without_quotes_is_a_word_where_it_is_one(read):
    """YAML reads it as false."""
    assert read(SWEEP + "hosts: {plan: off}\n").hosts.plan == "off"
