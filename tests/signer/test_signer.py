"""What the signer promises: it signs what only grew, and halts by name at everything else, whatever a crash leaves."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger import own_file
from ledger import signer as signing
from ledger.checkpoint import Checkpoint, SignerKey, open_checkpoint
from ledger.errors import LedgerBusyError, NoteKeyMalformedError, SignerHaltedError, SignerRunningError
from ledger.merkle import Frontier, Tile, new_tiles, root_of, verify_consistency, verify_inclusion
from ledger.signer import Signer
from ledger.signing_keys import create_key_file, read_key_files
from ledger.tree import TreeStore
from tests.signer.conftest import KEY, NEXT_KEY, ORIGIN, Site, fact


def opened(site: Site, *keys: SignerKey) -> Checkpoint:
    """The newest published checkpoint, its signature verified by any of ``keys``."""
    newest = site.store.latest()
    assert newest is not None
    found = open_checkpoint(newest.note.encode(), ORIGIN, [key.verifier_key for key in keys or (KEY,)])
    assert (found.checkpoint.size, found.checkpoint.root) == (newest.size, newest.root)
    return found.checkpoint


def root(site: Site, size: int) -> bytes:
    tree = Frontier()
    for row in site.log.read(1, size):
        tree.append(row.leaf_hash)
    return tree.root()


def halts(site: Site, reason: str, position: int | None = None, *, past: bool = False) -> None:
    """A new signer halts for this reason here, says so in its file, and so does the next one."""
    before = site.store.latest()
    for _ in range(2):
        with site.signer() as signer, pytest.raises(SignerHaltedError) as halted:
            signer.check_past() if past else signer.sign_once()
        assert halted.value.details["reason"] == reason
        if position is not None:
            assert halted.value.details["position"] == position
    assert json.loads(site.state.read_text())["halted"]["reason"] == reason
    assert site.store.latest() == before


# --- a log that grows ------------------------------------------------------------------------------------------------


def test_everything_up_to_the_head_is_signed_again_and_again(site: Site) -> None:
    assert site.sign() == 0
    assert site.store.latest() is None
    for size in (1, 2, 7, 255, 256, 257, 600):
        site.grow(size - site.count)
        assert site.sign() == size
        assert opened(site) == Checkpoint(ORIGIN, size, root(site, size))
    published = site.store.latest()
    assert site.sign() == 600
    assert site.store.latest() == published


def test_the_tiles_are_those_of_the_tree(site: Site) -> None:
    for facts in (300, 1, 299):
        site.grow(facts)
        site.sign()
    leaves = b"".join(row.leaf_hash for row in site.log.read())
    for tile in new_tiles(0, 600):
        if tile.level == 0:
            wanted = leaves[tile.index * 8192 : tile.index * 8192 + 32 * tile.width]
        else:
            wanted = root_of(leaves[:8192]) + root_of(leaves[8192:16384])
        assert site.store.tile(tile) == wanted
    assert site.store.tile(Tile(0, 0, 5)) == leaves[: 5 * 32]
    assert site.store.tile(Tile(0, 2, 89)) is None
    assert site.store.tile(Tile(0, 2)) is None


def test_each_fact_is_proven_and_every_old_checkpoint_leads_to_the_newest(site: Site) -> None:
    sizes = (1, 3, 200, 256, 300, 515)
    for size in sizes:
        site.grow(size - site.count)
        site.sign()
    newest = opened(site)
    for old in map(site.store.at, sizes):
        assert old is not None
        proof = site.store.consistency_proof(old.size, newest.size)
        verify_consistency(old.size, newest.size, proof, old.root, newest.root)
    for row in site.log.read():
        index = row.position - 1
        proof = site.store.inclusion_proof(index, newest.size)
        verify_inclusion(row.leaf_hash, index, newest.size, proof, newest.root)
    covering = site.store.covering(201)
    assert covering is not None
    assert covering.size == 256
    assert site.store.at(2) is None


def test_a_large_step_is_signed_in_several(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "BATCH_FACTS", 100)
    site.grow(250)
    assert site.sign() == 250
    assert [one is not None for one in map(site.store.at, (100, 200, 250))] == [True] * 3
    with site.signer() as signer:
        assert signer.check_past() == 250


def test_it_follows_the_log_until_it_is_told_to_stop(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "PAUSE_SECONDS", 0.01)
    stop = threading.Event()
    with site.signer() as signer:
        thread = threading.Thread(target=signer.run, args=(stop,))
        thread.start()
        for size in (3, 10):
            site.grow(size - site.count)
            wait_for(lambda: (site.store.latest() or opened_nothing).size == size)  # noqa: B023
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


class opened_nothing:  # noqa: N801
    """Before the first checkpoint."""

    size = 0


def wait_for(reached: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keys_change_while_the_old_one_still_signs(site: Site) -> None:
    site.grow(3)
    site.sign(KEY)
    site.sign(KEY, NEXT_KEY)
    for key in (KEY, NEXT_KEY):
        assert opened(site, key).size == 3
    site.grow(1)
    site.sign(NEXT_KEY)
    assert opened(site, NEXT_KEY).size == 4
    with site.signer(NEXT_KEY) as signer:
        assert signer.check_past() == 4


def test_a_key_file_is_for_its_owner_and_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "log.key"
    key = create_key_file(file, ORIGIN)
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_key_files([file]) == [key]
    with pytest.raises(NoteKeyMalformedError):
        create_key_file(file, ORIGIN)
    assert read_key_files([file]) == [key]
    other = create_key_file(tmp_path / "next.key", ORIGIN)
    assert read_key_files([file, tmp_path / "next.key"]) == [key, other]
    for wrong in ([], [tmp_path / "missing"], [tmp_path]):
        with pytest.raises(NoteKeyMalformedError):
            read_key_files(wrong)
    file.write_text("")
    with pytest.raises(NoteKeyMalformedError):
        read_key_files([file])


# --- what is not signed ----------------------------------------------------------------------------------------------


def test_a_rewritten_fact_halts_it_however_well_all_else_fits(site: Site) -> None:
    site.grow(300)
    site.sign()
    site.edit(site.write_fact(7, fact(6, "另一个站")))
    site.fit_the_head()
    halts(site, "REWRITTEN", 7)


def test_new_facts_do_not_hide_a_rewritten_one(site: Site) -> None:
    site.grow(300)
    site.sign()
    site.edit(site.write_fact(299, fact(298, "另一个站")))
    site.fit_the_head()
    site.grow(20)
    halts(site, "REWRITTEN", 299)
    assert opened(site).size == 300


def test_a_rewritten_fact_is_found_though_the_tiles_were_rewritten_with_it(site: Site) -> None:
    site.grow(6)
    site.sign()
    site.edit(site.write_fact(6, fact(5, "另一个站")))
    site.fit_the_head()
    leaves = b"".join(row.leaf_hash for row in site.log.read())
    site.edit(("UPDATE tree_tiles SET data = ?", (leaves,)))
    halts(site, "REWRITTEN", 5)  # of 6 leaves, the last two are one complete subtree


def test_facts_that_changed_places_halt_it(site: Site) -> None:
    site.grow(10)
    site.sign()
    site.edit(
        ("UPDATE facts SET position = 99 WHERE position = 4", ()),
        ("UPDATE facts SET position = 4 WHERE position = 5", ()),
        ("UPDATE facts SET position = 5 WHERE position = 99", ()),
    )
    site.fit_the_head()
    halts(site, "REWRITTEN", 4)


def test_a_signed_fact_that_was_removed_is_missed_when_the_past_is_read(site: Site) -> None:
    site.grow(10)
    site.sign()
    site.edit(("DELETE FROM facts WHERE position = 4", ()))
    halts(site, "POSITIONS_MISSING", 4, past=True)


@pytest.mark.parametrize("position", [13, 20])
def test_a_fact_that_is_missing_before_it_was_signed_halts_it(site: Site, position: int) -> None:
    site.grow(10)
    site.sign()
    site.grow(10)
    site.edit((f"DELETE FROM facts WHERE position = {position}", ()))
    halts(site, "POSITIONS_MISSING", position)


def test_facts_moved_together_over_a_gap_halt_it(site: Site) -> None:
    site.grow(10)
    site.sign()
    site.edit(
        ("DELETE FROM facts WHERE position = 4", ()),
        *[(f"UPDATE facts SET position = {p} WHERE position = {p + 1}", ()) for p in range(4, 10)],
    )
    site.fit_the_head()
    halts(site, "DATABASE_OLDER", 10)
    assert opened(site).size == 10


def test_an_end_that_was_cut_off_halts_it_though_the_head_agrees(site: Site) -> None:
    site.grow(10)
    site.sign()
    site.edit(("DELETE FROM facts WHERE position > 8", ()))
    site.fit_the_head()
    halts(site, "DATABASE_OLDER", 9)


def test_an_end_that_was_cut_off_and_grew_again_halts_it(site: Site) -> None:
    site.grow(10)
    site.sign()
    site.edit(("DELETE FROM facts WHERE position > 8", ()))
    site.fit_the_head()
    site.log.insert_events([fact(number, "新") for number in range(8, 14)])
    halts(site, "REWRITTEN", 9)


def test_a_fact_that_does_not_fit_its_hash_is_never_signed(site: Site) -> None:
    site.grow(10)
    site.sign()
    site.grow(10)
    site.edit(("UPDATE facts SET state = ? WHERE position = 15", (fact(14, "新").state.decode(),)))
    halts(site, "LEAF_HASH_WRONG", 15)
    assert opened(site).size == 10


def test_a_head_that_does_not_fit_the_facts_halts_it(site: Site) -> None:
    site.grow(10)
    site.sign()
    site.edit(("UPDATE ledger_head SET frontier = ?", (bytes(64),)))
    halts(site, "HEAD_WRONG")


def test_a_torn_head_halts_it(site: Site) -> None:
    site.grow(10)
    site.edit(("UPDATE ledger_head SET frontier = ?", (bytes(63),)))
    halts(site, "HEAD_WRONG")


@pytest.mark.parametrize("column", ["stream_id", "state"])
def test_a_column_that_cannot_be_read_halts_it(sqlite_site: Site, column: str) -> None:
    sqlite_site.grow(3)
    sqlite_site.edit((f"UPDATE facts SET {column} = CAST(x'ff6f' AS TEXT) WHERE position = 2", ()))
    halts(sqlite_site, "FACT_UNREADABLE")


def test_tiles_that_were_altered_are_not_built_upon(site: Site) -> None:
    site.grow(10)
    site.sign()
    site.grow(10)
    site.edit(("UPDATE tree_tiles SET data = ?", (bytes(320),)))
    halts(site, "TILE_WRONG")


def test_tiles_that_are_gone_are_not_built_upon(site: Site) -> None:
    site.grow(10)
    site.sign()
    site.grow(10)
    site.edit(("DELETE FROM tree_tiles", ()))
    halts(site, "TILE_WRONG")


@pytest.mark.parametrize(
    ("change", "values", "reason"),
    [
        ("DELETE FROM checkpoints", (), "DATABASE_OLDER"),
        ("DELETE FROM checkpoints WHERE size > 10", (), "CRASH"),
        ("UPDATE checkpoints SET root = ? WHERE size = 20", (bytes(32),), "CHECKPOINT_FOREIGN"),
        ("UPDATE checkpoints SET note = ? WHERE size = 20", ("rubbish",), "CHECKPOINT_FOREIGN"),
        ("UPDATE checkpoints SET size = 21 WHERE size = 20", (), "CHECKPOINT_FOREIGN"),
    ],
)
def test_a_checkpoint_that_is_not_its_own_halts_it(
    site: Site, change: str, values: tuple[Any, ...], reason: str
) -> None:
    for _ in range(2):
        site.grow(10)
        site.sign()
    newest = site.store.latest()
    site.edit((change, values))
    if reason == "CRASH":  # looks like a crash before publication, and is mended like one
        assert site.sign() == 20
        published = site.store.latest()
        assert published is not None
        assert newest is not None
        assert published.note == newest.note
    else:
        halts(site, reason)


def test_a_signature_that_was_cut_off_is_put_back(site: Site) -> None:
    site.grow(10)
    site.sign()
    newest = site.store.latest()
    assert newest is not None
    other = open_text_signed_by(NEXT_KEY, newest.note)
    site.edit(("UPDATE checkpoints SET note = ?", (other,)))
    site.sign()
    assert opened(site, KEY).size == opened(site, NEXT_KEY).size == 10


def open_text_signed_by(key: SignerKey, note: str) -> str:
    text = note.rpartition("\n\n")[0] + "\n"
    return f"{text}\n{key.sign(text).to_line()}"


# --- old backups -----------------------------------------------------------------------------------------------------


def test_a_restored_old_backup_is_refused(site: Site, sqlite_url: str) -> None:
    """The whole database as it was, tiles and checkpoints included: nothing in it contradicts itself."""
    if site.log.dialect != "sqlite":
        pytest.skip("the file is the backup; on PostgreSQL the tables are cut back in the tests above")
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    site.grow(10)
    site.sign()
    site.log.close()
    backup = file.read_bytes() if not file.with_name(file.name + "-wal").exists() else _backed_up(file)
    site.grow(10)
    site.sign()
    site.log.close()
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    file.write_bytes(backup)
    halts(site, "DATABASE_OLDER", 11)
    with site.signer() as signer:
        assert signer.reset() is not None
    halts(site, "DATABASE_OLDER", 11)


def _backed_up(file: Path) -> bytes:
    import sqlite3

    with sqlite3.connect(file) as source, sqlite3.connect(file.with_suffix(".copy")) as copy:
        source.backup(copy)
    return file.with_suffix(".copy").read_bytes()


def test_a_restored_backup_that_grew_past_what_was_signed_is_refused_all_the_same(site: Site) -> None:
    for _ in range(3):
        site.grow(10)
        site.sign()
    site.edit(
        ("DELETE FROM facts WHERE position > 10", ()),
        ("DELETE FROM checkpoints WHERE size > 10", ()),
        ("DELETE FROM tree_tiles", ()),
    )
    site.fit_the_head()
    site.log.insert_events([fact(number, "新") for number in range(10, 50)])
    halts(site, "DATABASE_OLDER", 11)


# --- crashes ---------------------------------------------------------------------------------------------------------


class PowerCutError(Exception):
    """The process ends here."""


def cut(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool = False) -> None:
    """End the process before (or after) a step, once."""
    step, left = getattr(owner, name), [1]

    def stopping(*arguments: Any, **named: Any) -> Any:
        found = step(*arguments, **named) if after or not left else None
        if left:
            left.pop()
            raise PowerCutError
        return found

    monkeypatch.setattr(owner, name, stopping)


@pytest.mark.parametrize(
    ("owner", "step", "after"),
    [
        (own_file.os, "replace", False),
        (own_file.os, "replace", True),
        (Signer, "_save", True),
        (TreeStore, "write", False),
        (TreeStore, "write", True),
        (Signer, "_publish", True),
    ],
)
def test_a_crash_anywhere_loses_nothing_and_signs_nothing_twice(
    site: Site, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, after: bool
) -> None:
    site.grow(250)
    site.sign()
    site.grow(300)
    cut(monkeypatch, owner, step, after=after)
    with pytest.raises(PowerCutError):
        site.sign()
    monkeypatch.undo()
    site.grow(5)
    assert site.sign() == 555
    first, newest = site.store.at(250), opened(site)
    assert first is not None
    assert newest.root == root(site, 555)
    proof = site.store.consistency_proof(250, 555)
    verify_consistency(250, 555, proof, first.root, newest.root)
    between = site.store.at(550)
    if between is not None:
        assert between.root == root(site, 550)


def test_what_was_signed_before_a_crash_must_still_be_there_after_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.grow(5)
    site.sign()
    site.grow(5)
    cut(monkeypatch, TreeStore, "write")
    with pytest.raises(PowerCutError):
        site.sign()
    monkeypatch.undo()
    site.edit(site.write_fact(8, fact(7, "另一个站")))
    site.fit_the_head()
    halts(site, "REWRITTEN")


KILLED = """
import os, sys, threading
from pathlib import Path
from ledger.checkpoint import SignerKey
from ledger.log import LedgerLog
from ledger import signer
from tests.signer.conftest import KEY, ORIGIN
signer.PAUSE_SECONDS = 0.0
log = LedgerLog.open(sys.argv[1], busy_seconds=30)
with signer.Signer(log, Path(sys.argv[2]), [KEY], ORIGIN) as one:
    print("running", flush=True)
    one.run(threading.Event())
"""


@pytest.mark.parametrize("kills", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_a_signer_that_is_killed_again_and_again_ends_with_one_history(site: Site, kills: int) -> None:
    """And hundreds of times, while others append and follow, in `tests.faults`."""
    site.grow(10)
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, site.url, str(site.state)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        for _ in range(4):
            site.grow(7)
            time.sleep(0.01 * (kill + 1))
        process.kill()
        process.wait()
        process.stdout.close()
    assert site.sign() == site.count
    with site.signer() as signer:
        assert signer.check_past() == site.count
    newest = opened(site)
    signed = [one for size in range(1, site.count) if (one := site.store.at(size)) is not None]
    assert len(signed) >= kills
    for old in signed:
        proof = site.store.consistency_proof(old.size, newest.size)
        verify_consistency(old.size, newest.size, proof, old.root, newest.root)


# --- only one history ------------------------------------------------------------------------------------------------


def test_a_state_file_is_one_signers_own(site: Site) -> None:
    with site.signer(), pytest.raises(SignerRunningError), site.signer():
        raise AssertionError
    assert site.sign() == 0


def test_a_signer_without_the_past_does_not_begin_another_one(site: Site, tmp_path: Path) -> None:
    site.grow(5)
    site.sign()
    newest, elsewhere = site.store.latest(), tmp_path / "elsewhere.json"
    with pytest.raises(SignerHaltedError) as halted:
        site.sign(state=elsewhere)
    assert halted.value.details["reason"] == "CHECKPOINT_FOREIGN"
    assert site.store.latest() == newest


def test_a_copy_of_a_signer_cannot_fork_it(site: Site, tmp_path: Path) -> None:
    site.grow(5)
    site.sign()
    copy = tmp_path / "copy.json"
    copy.write_bytes(site.state.read_bytes())
    site.grow(5)
    site.sign()
    site.grow(5)
    with pytest.raises(SignerHaltedError) as halted:
        site.sign(state=copy)
    assert halted.value.details["reason"] == "CHECKPOINT_FOREIGN"
    assert opened(site).size == 10
    assert site.sign() == 15


def test_a_copy_that_signs_at_the_same_moment_publishes_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.grow(5)
    site.sign()
    copy = tmp_path / "copy.json"
    copy.write_bytes(site.state.read_bytes())
    site.grow(5)
    publish = Signer._publish

    def overtaken(self: Signer, *arguments: Any) -> None:
        monkeypatch.setattr(Signer, "_publish", publish)
        site.grow(1)
        site.sign()
        publish(self, *arguments)

    monkeypatch.setattr(Signer, "_publish", overtaken)
    with pytest.raises(SignerHaltedError) as halted:
        site.sign(state=copy)
    assert halted.value.details["reason"] == "CHECKPOINT_FOREIGN"
    assert opened(site).size == 11
    assert site.store.at(10) is None


def test_a_state_of_another_log_is_refused(site: Site) -> None:
    site.grow(1)
    site.sign()
    with (
        Signer(site.log, site.state, [KEY], "ledger.example/other") as other,
        pytest.raises(SignerHaltedError) as halted,
    ):
        other.sign_once()
    assert halted.value.details["reason"] == "OTHER_LEDGER"
    assert site.sign() == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"size": 1}'])
def test_a_state_that_cannot_be_read_is_never_replaced(site: Site, content: str) -> None:
    site.grow(1)
    site.state.write_text(content)
    with pytest.raises(SignerHaltedError) as halted:
        site.sign()
    assert halted.value.details["reason"] == "STATE_DAMAGED"
    assert site.state.read_text() == content


def test_a_halted_signer_signs_again_once_the_cause_is_gone_and_it_was_reset(site: Site) -> None:
    site.grow(10)
    good = next(site.log.read(9, 9))
    site.edit(("UPDATE facts SET leaf_hash = ? WHERE position = 9", (bytes(32),)))
    halts(site, "LEAF_HASH_WRONG", 9)
    site.edit(("UPDATE facts SET leaf_hash = ? WHERE position = 9", (good.leaf_hash,)))
    halts(site, "LEAF_HASH_WRONG", 9)
    with site.signer() as signer:
        told = signer.reset()
        assert told is not None
        assert (told.reason, told.position) == ("LEAF_HASH_WRONG", 9)
        assert signer.halted() is None
        assert signer.sign_once() == 10


def test_a_running_signer_stops_for_good_when_it_halts(site: Site) -> None:
    site.grow(10)
    site.edit(("DELETE FROM facts WHERE position = 4", ()))
    with site.signer() as signer, pytest.raises(SignerHaltedError):
        signer.run(threading.Event())


def test_a_held_database_is_no_reason_to_halt(sqlite_site: Site) -> None:
    import sqlite3

    sqlite_site.grow(3)
    sqlite_site.sign()
    sqlite_site.grow(3)
    file = sqlite_site.url.removeprefix("sqlite:///")
    patient, sqlite_site.log = sqlite_site.log, type(sqlite_site.log).open(sqlite_site.url, busy_seconds=0.1)
    held = sqlite3.connect(file, isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerBusyError):
        sqlite_site.sign()
    held.rollback()
    held.close()
    assert sqlite_site.sign() == 6
    patient.close()
