"""The brain's hands: states are saved while training goes on, offered again, dropped and removed."""

import threading

import pytest

from pbt.errors import StorageError
from pbt.runtime.checkpoints import CheckpointStore
from pbt.runtime.exchange import LocalExchange
from pbt.runtime.states import StoredStates
from tests.runtime.miniature import in_time, make_state, weight_of

pytestmark = pytest.mark.usefixtures("no_sync")


class Ear:
    """Hears how saving went."""

    def __init__(self):
        self.heard = []

    def saved(self, token, checkpoint):
        self.heard.append((token, checkpoint.digest))

    def not_saved(self, token, reason):
        self.heard.append((token, reason))


@pytest.fixture
def exchange():
    return LocalExchange()


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.fixture
def woken():
    return threading.Semaphore(0)


@pytest.fixture
def make(exchange, store, woken):
    def make(**handles):
        states.append(StoredStates(exchange, store, woken.release, **handles))
        return states[-1]

    states = []
    yield make
    for one in states:
        one.close()


def told(states, woken, number=1):
    """What is heard once so many have been woken for."""
    ear = Ear()
    for _ in range(number):
        assert woken.acquire(timeout=20.0)
    states.tell(ear)
    return ear.heard


def test_a_published_state_is_saved(make, exchange, store, woken):
    """Whoever looks is woken, and told the digest; the state stays published."""
    states = make()
    exchange.publish("3:1", make_state(2.5, age=4, consumed=5, seed=6))
    states.save("3:1", {"member": 3})
    ((token, digest),) = told(states, woken)
    assert ("3:1", {digest}) == (token, store.digests())
    state = store.load(digest)
    assert (2.5, 4, 5, 6) == (weight_of(state), state.age, state.consumed, state.seed)
    assert "3:1" in exchange


def test_a_state_may_be_published_after(make, exchange, woken):
    """As happens when the order that publishes it has not been given yet."""
    states = make()
    states.save("3:1", {})
    ear = Ear()
    states.tell(ear)
    assert [] == ear.heard
    exchange.publish("3:1", make_state(2.5))
    assert ["3:1"] == [token for token, _ in told(states, woken)]


def test_saving_does_not_keep_the_caller(make, exchange, woken):
    """Many are asked for at once, and each is told once."""
    states = make()
    for number in range(5):
        states.save(f"{number}:0", {})
    for number in range(5):
        exchange.publish(f"{number}:0", make_state(float(number)))
    assert [f"{number}:0" for number in range(5)] == [token for token, _ in told(states, woken, 5)]
    ear = Ear()
    states.tell(ear)
    assert [] == ear.heard


def test_what_cannot_be_saved_is_told(make, exchange, store, woken, monkeypatch):
    """With the reason, in a line; what comes after is saved."""
    save = store.save

    def full(state, about):
        if weight_of(state) == 1.0:
            raise StorageError("cannot write checkpoints: No space left on device.")
        return save(state, about)

    monkeypatch.setattr(store, "save", full)
    states = make()
    for number in (1, 2):
        exchange.publish(f"{number}:0", make_state(float(number)))
        states.save(f"{number}:0", {})
    (first, why), (second, digest) = told(states, woken, 2)
    assert ("1:0", "cannot write checkpoints: No space left on device.") == (first, why)
    assert ("2:0", {digest}) == (second, store.digests())


@pytest.mark.parametrize("is_first", [False, True], ids=["while others are read", "while it is waited for"])
def test_a_state_that_was_lost_keeps_nobody_waiting(make, exchange, woken, is_first):
    """It is told that it was lost; what comes after is saved; and it is saved itself where it comes again."""
    states = make()
    names = ["1:0", "2:0"] if is_first else ["2:0", "1:0"]
    for token in names:
        states.save(token, {})
    states.withdraw("1:0")
    exchange.publish("2:0", make_state(2.0))
    heard = dict(told(states, woken, 2))
    assert list(heard) == names
    assert "the state of segment 1:0 was lost with its host before it was saved." == heard["1:0"]
    states.save("1:0", {})
    exchange.publish("1:0", make_state(1.0))
    ((token, digest),) = told(states, woken)
    assert "1:0" == token
    assert 1.0 == weight_of(states._store.load(digest))


def test_a_state_that_is_there_cannot_be_withdrawn(make, exchange, woken):
    """Nor is it lost to those who ask for it later."""
    states = make()
    exchange.publish("1:0", make_state(1.0))
    states.withdraw("1:0")
    exchange.drop("1:0")
    states.save("1:0", {})
    exchange.publish("1:0", make_state(1.0))
    ((_, digest),) = told(states, woken)
    assert 1.0 == weight_of(states._store.load(digest))


def test_a_checkpoint_is_offered_as_it_was(make, exchange, store):
    """Under the token it is asked for."""
    digest = store.save(make_state(7.0, age=1, consumed=2, seed=3), {}).digest
    make().offer("3:1", digest)
    state = exchange.fetch("3:1")
    assert (7.0, 1, 2, 3) == (weight_of(state), state.age, state.consumed, state.seed)


@pytest.mark.parametrize("damage", ["gone", "flipped", "unknown"])
def test_a_damaged_checkpoint_is_not_offered(make, exchange, store, damage):
    """It is named, and nothing is published."""
    checkpoint = store.save(make_state(7.0), {})
    digest = "ab" * 32 if damage == "unknown" else checkpoint.digest
    if damage == "gone":
        checkpoint.path.unlink()
    elif damage == "flipped":
        data = bytearray(checkpoint.path.read_bytes())
        data[-1] ^= 1
        checkpoint.path.write_bytes(data)
    with pytest.raises(StorageError, match=digest):
        make().offer("3:1", digest)
    assert 0 == len(exchange)


def test_dropped_and_removed(make, exchange, store):
    """The state from the exchange, the checkpoint from the store."""
    states, digest = make(), store.save(make_state(7.0), {}).digest
    states.offer("3:1", digest)
    states.drop("3:1")
    assert (0, {digest}) == (len(exchange), store.digests())
    states.remove(digest)
    assert set() == store.digests()


def test_the_exchange_may_hold_handles(make, exchange, store, woken):
    """Under Ray, references to packed states: made when offered, followed when saved."""
    states = make(wrap=lambda state: ["handle", state], unwrap=lambda handle: handle[1])
    digest = store.save(make_state(7.0), {}).digest
    states.offer("3:1", digest)
    assert "handle" == exchange.fetch("3:1")[0]
    states.save("3:1", {})
    assert [("3:1", digest)] == told(states, woken)


def test_closing_gives_up_what_nobody_publishes_any_more(make, exchange, store):
    """At once; what is there is saved before."""
    states = make()
    exchange.publish("1:0", make_state(1.0))
    states.save("1:0", {})
    states.save("2:0", {})
    in_time(4.0, states.close)
    ear = Ear()
    states.tell(ear)
    (first, _), (second, why) = ear.heard
    assert ("1:0", "2:0", 1) == (first, second, len(store.digests()))
    assert "was not published before the sweep ended" in why
