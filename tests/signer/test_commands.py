"""`wenming key`, `sign`, `checkpoint`, `prove` and `check-proof` as people run them."""

import sqlite3
from pathlib import Path

import pytest

from ledger.checkpoint import VerifierKey, open_checkpoint
from tests.cli import Done, wenming
from tests.signer.conftest import Site, fact

NAME = "ledger.example/gangu"


class Desk:
    """A ledger of twelve facts and a key for it."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.key = site, folder / "log.key"
        site.grow(12)
        self.vkey = wenming("key", "new", "--name", NAME, self.key).out.strip()

    def run(self, command: str, *arguments: object) -> Done:
        return wenming(command, *arguments, "--database", self.site.url)

    def sign(self, *arguments: object) -> Done:
        return self.run("sign", "--key", self.key, *arguments)


@pytest.fixture
def desk(site: Site, tmp_path: Path) -> Desk:
    return Desk(site, tmp_path)


def refused(done: Done, code: str) -> None:
    assert done.code == 1
    assert done.err.startswith(f"{code}  ")


def test_from_a_key_to_a_proof_that_is_checked_without_the_ledger(desk: Desk, tmp_path: Path) -> None:
    assert "12" in desk.sign("--once").err
    note = desk.run("checkpoint").out
    assert open_checkpoint(note.encode(), NAME, [VerifierKey.from_text(desk.vkey)]).checkpoint.size == 12
    proof = tmp_path / "fact.tlog-proof"
    assert desk.run("prove", 5, "--output", proof).code == 0
    assert desk.run("prove", 5).out == proof.read_text("utf-8")
    state = tmp_path / "state"
    state.write_bytes(fact(4).state)
    done = wenming("check-proof", proof, "--vkey", desk.vkey, "--state", state)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(
        f"✓ position 5 of {NAME}, under the signed checkpoint of size 12\n  unit.renamed"
    )
    state.write_bytes(fact(5).state)
    refused(wenming("check-proof", proof, "--vkey", desk.vkey, "--state", state), "PROOF_WRONG")


def test_a_proof_that_was_altered_anywhere_is_refused(desk: Desk, tmp_path: Path) -> None:
    desk.sign("--once")
    proof = tmp_path / "fact.tlog-proof"
    desk.run("prove", 5, "--output", proof)
    whole = proof.read_bytes()
    for at in range(0, len(whole), 5):
        proof.write_bytes(whole[:at] + (b"A" if whole[at] != 65 else b"B") + whole[at + 1 :])
        assert wenming("check-proof", proof, "--vkey", desk.vkey).code == 1, at
    for content in (
        b"",
        whole[:-1],
        whole + b"\n",
        b"\xff" + whole,
        whole * 2,
        whole.replace(b"\n", b"\r\n"),
    ):
        proof.write_bytes(content)
        assert wenming("check-proof", proof, "--vkey", desk.vkey).code == 1
    proof.write_bytes(whole)
    assert wenming("check-proof", proof, "--vkey", desk.vkey).code == 0
    other = wenming("key", "new", "--name", NAME, tmp_path / "other.key").out.strip()
    refused(wenming("check-proof", proof, "--vkey", other), "NO_TRUSTED_SIGNATURE")
    refused(wenming("check-proof", proof), "INVALID_REQUEST")
    refused(wenming("check-proof", proof, "--vkey", desk.vkey, "--origin", "x"), "WRONG_ORIGIN")


def test_a_checkpoint_is_printed_for_a_drawer(desk: Desk) -> None:
    refused(desk.run("checkpoint"), "NOT_FOUND")
    desk.sign("--once")
    page, note = desk.run("checkpoint", "--print").out, desk.run("checkpoint").out
    newest = desk.site.store.latest()
    assert newest is not None
    assert note in page
    assert newest.root.hex()[:8] in page
    assert "12" in page


def test_what_cannot_be_proven_yet_is_said(desk: Desk) -> None:
    refused(desk.run("prove", 1), "NOT_FOUND")
    desk.sign("--once")
    desk.site.grow(1)
    refused(desk.run("prove", 13), "NOT_SIGNED_YET")
    refused(desk.run("prove", 14), "NOT_FOUND")
    refused(desk.run("prove", 1, "--size", 3), "UNKNOWN_CHECKPOINT")
    assert desk.run("prove", 1, "--size", 12).code == 0


def test_a_halt_stays_until_somebody_resets_it(desk: Desk) -> None:
    desk.sign("--once")
    desk.site.edit(desk.site.write_fact(3, fact(2, "另一个站")))
    desk.site.fit_the_head()
    for _ in range(2):
        done = desk.sign("--once")
        refused(done, "SIGNER_HALTED")
        assert "REWRITTEN, position 3" in done.err
    verified = desk.run("verify", "--no-figures", "--vkey", desk.vkey)
    assert verified.code == 1
    assert "CHECKPOINT_WRONG" in verified.out
    desk.site.edit(desk.site.write_fact(3, fact(2)))
    desk.site.fit_the_head()
    assert "REWRITTEN" in desk.sign("--reset").out
    assert desk.sign("--once").code == 0
    assert desk.run("verify", "--no-figures", "--vkey", desk.vkey).code == 0
    assert "had not halted" in desk.sign("--reset").out


def test_signing_needs_a_key_that_is_one(desk: Desk, tmp_path: Path) -> None:
    refused(desk.run("sign", "--once"), "INVALID_REQUEST")
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("PRIVATE+KEY+nothing")
    refused(desk.run("sign", "--once", "--key", rubbish), "NOTE_KEY_MALFORMED")
    refused(wenming("key", "new", "--name", NAME, desk.key), "NOTE_KEY_MALFORMED")
    refused(wenming("key", "new", "--name", "a b", tmp_path / "new"), "NOTE_KEY_MALFORMED")
    assert not (tmp_path / "new").exists()


def test_the_key_is_in_its_file_and_nowhere_else(sqlite_site: Site, tmp_path: Path) -> None:
    desk = Desk(sqlite_site, tmp_path)
    assert desk.sign("--once").code == 0
    secret = desk.key.read_bytes().strip().rpartition(b"+")[2]
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for file in tmp_path.iterdir():
        assert (secret in file.read_bytes()) == (file == desk.key)
