"""A master key is changed while others read; whatever a crash leaves opens, and doing it again finishes it."""

import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from ledger import rotation
from ledger.errors import KeyStoreMissingError, MasterKeyInvalidError, WrongMasterKeyError
from ledger.master_key import create_master_key, load_master_key
from ledger.sealing import KeyStore
from tests.faults import Hand, Telling, chances, times

START = datetime(2026, 3, 1, tzinfo=UTC)
TOPIC, PROFILE = "volunteer.profile_corrected", {"name": "王秀英"}


@pytest.fixture
def file(database_url: str, tmp_path: Path) -> Path:
    """The master key's file of a new, empty store at ``database_url``."""
    file = tmp_path / "keys.master"
    KeyStore.create(database_url, create_master_key(file), START)
    return file


@pytest.fixture
def server(database_url: str, file: Path) -> Iterator[KeyStore]:
    """A store that was opened before anything happened, as by a process that serves, with little memory for keys."""
    store = rotation.opened(database_url, file)
    store._keys._cache._keys_max = 1
    yield store
    store.close()


def works(store: KeyStore, sealed: list[str]) -> None:
    """What was sealed opens, and more is sealed, for people known and new."""
    assert store.unseal_many(TOPIC, sealed) == [PROFILE] * len(sealed)
    sealed.append(store.seal(TOPIC, uuid4(), PROFILE))
    assert store.unseal_many(TOPIC, sealed) == [PROFILE] * len(sealed)


def test_a_new_key_is_in_force_and_the_old_one_lies_aside(
    server: KeyStore, database_url: str, file: Path
) -> None:
    old, sealed = load_master_key(file), [server.seal(TOPIC, uuid4(), PROFILE) for _ in range(5)]
    aside = rotation.rotate(database_url, file)
    assert load_master_key(aside) == old != load_master_key(file)
    assert stat.S_IMODE(aside.stat().st_mode) == stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(file.parent.glob("keys.master*")) == [file, aside]
    with pytest.raises(WrongMasterKeyError):
        KeyStore.open(database_url, old)
    works(server, sealed)
    reopened = rotation.opened(database_url, file)
    works(reopened, sealed)
    reopened.close()


def test_a_server_follows_one_rotation_after_another(server: KeyStore, database_url: str, file: Path) -> None:
    sealed = [server.seal(TOPIC, uuid4(), PROFILE)]
    old = {rotation.rotate(database_url, file) for _ in range(3)}
    works(server, sealed)
    assert len({load_master_key(each) for each in (*old, file)}) == 4


def crash(*_: object, **__: object) -> None:
    raise RuntimeError("the power went off")


@pytest.mark.parametrize(
    "at",
    [
        "create_master_key",
        "KeyStore.rotate",
        "KeyStore.close",
        "write_master_key",
        "os.replace",
        "sync_folder",
    ],
)
def test_a_crash_before_any_step_leaves_a_store_that_opens_and_is_finished(
    server: KeyStore, database_url: str, file: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, sealed = load_master_key(file), [server.seal(TOPIC, uuid4(), PROFILE) for _ in range(3)]
    with monkeypatch.context() as broken:
        broken.setattr(f"ledger.rotation.{at}", crash)
        with pytest.raises(RuntimeError):
            rotation.rotate(database_url, file)
    works(server, sealed)
    reopened = rotation.opened(database_url, file)
    works(reopened, sealed)
    reopened.close()
    rotation.rotate(database_url, file)
    works(server, sealed)
    assert not file.with_name("keys.master.next").exists()
    with pytest.raises(WrongMasterKeyError):
        KeyStore.open(database_url, old)
    KeyStore.open(database_url, load_master_key(file)).close()


def test_a_key_file_that_belongs_to_another_store_changes_nothing(
    database_url: str, file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.master"
    create_master_key(other)
    with pytest.raises(WrongMasterKeyError):
        rotation.rotate(database_url, other)
    with pytest.raises(MasterKeyInvalidError):
        rotation.rotate(database_url, tmp_path / "nowhere.master")
    with pytest.raises(KeyStoreMissingError):
        rotation.rotate(f"sqlite:///{tmp_path / 'nowhere.db'}", file)
    assert sorted(tmp_path.glob("*.master*")) == [file, other]


def test_of_two_who_rotate_at_once_nobody_loses_the_key(
    server: KeyStore, database_url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has read the old key's file when the first is through with everything."""
    sealed = [server.seal(TOPIC, uuid4(), PROFILE)]
    is_wrapped_by: Callable[[KeyStore, bytes], bool] = KeyStore.is_wrapped_by

    def late(store: KeyStore, old: bytes) -> bool:
        monkeypatch.undo()
        rotation.rotate(database_url, file)
        return is_wrapped_by(store, old)

    monkeypatch.setattr(KeyStore, "is_wrapped_by", late)
    with pytest.raises(MasterKeyInvalidError):
        rotation.rotate(database_url, file)
    works(server, sealed)
    KeyStore.open(database_url, load_master_key(file)).close()


def rotate_elsewhere(telling: Telling, url: str, file: Path) -> None:
    telling.send("ready")
    rotation.rotate(url, file)


def _seconds_of_a_whole_rotation(url: str, file: Path) -> float:
    hand = Hand(rotate_elsewhere, url, file)
    assert hand.hear() == "ready"
    began = time.monotonic()
    assert (hand.rest(), hand.exit_code) == ([], 0)
    return time.monotonic() - began


@pytest.mark.slow
def test_a_rotation_that_is_killed_again_and_again_while_others_read(
    server: KeyStore, database_url: str, file: Path
) -> None:
    server._keys._cache._keys_max = 100
    kills, people = times(20), [uuid4() for _ in range(1_000)]
    server.ensure_keys(people)
    sealed = [server.seal(TOPIC, person, PROFILE) for person in people]
    stop, wrong, random = threading.Event(), [], chances("kills during a rotation")

    def read() -> None:
        while not stop.wait(0.02):
            try:
                works(server, sealed[-500:])
            except Exception as error:
                wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    codes = []
    whole = _seconds_of_a_whole_rotation(database_url, file)
    for _ in range(kills):
        hand = Hand(rotate_elsewhere, database_url, file)
        assert hand.hear() == "ready"
        time.sleep(random.uniform(0, whole))
        hand.kill()
        codes.append(hand.exit_code)
    stop.set()
    reader.join(60)
    assert wrong == []
    assert set(codes) <= {0, -signal.SIGKILL}
    print(f"{kills} rotations, {codes.count(-signal.SIGKILL)} killed before they ended")
    assert codes.count(-signal.SIGKILL) > kills / 4
    rotation.rotate(database_url, file)
    again = rotation.opened(database_url, file)
    works(again, sealed)
    again.close()
    assert not list(file.parent.glob("*.next"))
