"""Witnesses as people use them: a process elsewhere, `wenming sign` beside the ledger, and everybody who checks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ledger.witness import logs_of
from tests.cli import Done, wenming
from tests.signer.conftest import Site, fact
from tests.witness.operator import WITNESS
from tests.witness.test_http import served

NAME = "ledger.example/gangu"


class Desk:
    """A ledger of twelve facts, a key for it, and one witness that runs."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder, self.key = site, folder, folder / "log.key"
        site.grow(12)
        self.vkey = wenming("key", "new", "--name", NAME, self.key).out.strip()
        (folder / "elsewhere").mkdir()
        self.witness_vkey = WITNESS.verifier_key.to_text()
        self.witnesses = folder / "witnesses"
        self.witnesses.write_text(f"{self.witness_vkey} http://127.0.0.1:9\n", "utf-8")

    @contextmanager
    def witness(self) -> Iterator[None]:
        """It can be reached, as long as this lasts."""
        with served(self.folder / "elsewhere", logs_of([self.vkey])) as address:
            self.witnesses.write_text(f"# 县外\n{self.witness_vkey} {address}\n", "utf-8")
            yield

    def run(self, command: str, *arguments: object) -> Done:
        return wenming(command, *arguments, "--database", self.site.url)

    def sign(self, *arguments: object) -> Done:
        return self.run("sign", "--key", self.key, "--witnesses", self.witnesses, *arguments)

    @property
    def keys(self) -> tuple[str, ...]:
        return ("--vkey", self.vkey, "--witness", self.witness_vkey)


@pytest.fixture
def desk(sqlite_url: str, tmp_path: Path) -> Iterator[Desk]:
    site = Site(sqlite_url, tmp_path)
    yield Desk(site, tmp_path)
    site.log.close()


def refused(done: Done, code: str) -> None:
    assert done.code == 1
    assert done.err.startswith(f"{code}  ")


def test_from_a_signature_to_a_proof_that_is_witnessed(desk: Desk, tmp_path: Path) -> None:
    with desk.witness():
        done = desk.sign("--once")
        assert (done.code, "cosigned size 12" in done.err) == (0, True)
    enough = (*desk.keys, "--witnesses-min", 1)

    plain = desk.run("checkpoint")
    assert plain.out.count("— ") == 2
    assert "cosigned size 12" in plain.err
    page = desk.run("checkpoint", "--print", *enough).out
    assert "副署 cosigned" in page
    assert page.count("✓") == 2
    assert "not checked" not in page
    assert desk.run("checkpoint", "--print").out.count("not checked") == 2

    proof = tmp_path / "fact.tlog-proof"
    desk.run("prove", 5, "--output", proof)
    checked = wenming("check-proof", proof, *enough)
    assert (checked.code, "cosigned by" in checked.out) == (0, True)
    verified = desk.run("verify", "--no-figures", *enough)
    assert (verified.code, "up to size 12" in verified.out) == (0, True)

    desk.site.grow(1)
    desk.sign("--once")  # the witness is away: signed all the same
    assert "WITNESS_AWAY" in desk.run("checkpoint", "--vkey", desk.vkey).err
    refused(desk.run("checkpoint", *enough), "COSIGNATURES_TOO_FEW")
    desk.run("prove", 5, "--output", proof)
    refused(wenming("check-proof", proof, *enough), "COSIGNATURES_TOO_FEW")
    short = desk.run("verify", "--no-figures", *enough)
    assert (short.code, "COSIGNATURES_TOO_FEW" in short.out) == (1, True)
    all_named = desk.run("verify", "--no-figures", *desk.keys)
    assert (all_named.code, "COSIGNATURES_TOO_FEW" in all_named.out) == (1, True)
    assert desk.run("verify", "--no-figures", *desk.keys, "--witnesses-min", 0).code == 0


def test_an_alarm_is_shown_to_whoever_asks_for_the_checkpoint(desk: Desk, tmp_path: Path) -> None:
    with desk.witness():
        desk.sign("--once")
        desk.site.edit(
            desk.site.write_fact(3, fact(2, "另一个站")),
            ("DELETE FROM checkpoints", ()),
            ("DELETE FROM tree_tiles", ()),
        )
        desk.site.fit_the_head()
        (tmp_path / "log.key.state.json").unlink()
        assert "ALARM WITNESS_REFUSED" in desk.sign("--once").err
    assert "ALARM WITNESS_REFUSED" in desk.run("checkpoint").err
    refused(desk.run("checkpoint", *desk.keys, "--witnesses-min", 1), "COSIGNATURES_TOO_FEW")


def test_what_cannot_be_asked_is_said(desk: Desk) -> None:
    refused(desk.run("verify", "--witness", desk.witness_vkey), "INVALID_REQUEST")
    refused(desk.run("verify", "--vkey", desk.vkey, "--witnesses-min", 1), "INVALID_REQUEST")
    refused(desk.run("verify", *desk.keys, "--witnesses-min", 2), "INVALID_REQUEST")
    refused(desk.run("verify", *desk.keys, "--witness", "w"), "NOTE_KEY_MALFORMED")
    desk.witnesses.write_text(f"{desk.vkey} https://w.example\n", "utf-8")
    refused(desk.sign("--once"), "INVALID_REQUEST")
    desk.witnesses.write_bytes(b"\xff")
    refused(desk.sign("--once"), "INVALID_REQUEST")
    desk.witnesses.unlink()
    refused(desk.sign("--once"), "INVALID_REQUEST")


def test_the_state_of_a_signer_is_told_beside_it(desk: Desk, tmp_path: Path) -> None:
    assert desk.sign("--status").code == 1
    assert desk.run("sign", "--key", desk.key, "--once").code == 0
    said = desk.sign("--status")
    assert (said.code, "up to position 12" in said.out) == (0, True)
    state = tmp_path / "log.key.state.json"
    whole = state.read_text("utf-8")
    state.write_text("rubbish", "utf-8")
    refused(desk.sign("--status"), "SIGNER_HALTED")
    state.write_text(whole, "utf-8")
    desk.site.edit(desk.site.write_fact(3, fact(2, "另一个站")))
    desk.site.fit_the_head()
    desk.sign("--once")
    refused(desk.sign("--status"), "SIGNER_HALTED")


def test_keys_that_are_there_are_only_printed(desk: Desk, tmp_path: Path) -> None:
    before = desk.key.read_bytes()
    again = wenming("key", "new", "--name", NAME, desk.key, "--if-missing")
    assert (again.code, again.out.strip(), desk.key.read_bytes()) == (0, desk.vkey, before)
    made = wenming("key", "new", "--name", NAME, tmp_path / "other.key", "--if-missing")
    assert (made.code, made.out != again.out) == (0, True)


def test_the_logs_key_is_changed_by_the_steps_that_are_written_down(desk: Desk, tmp_path: Path) -> None:
    """README: add the new key, hand it out, drop the old one. Nothing signed before is lost."""
    next_key = tmp_path / "next.key"
    proofs = [tmp_path / f"{name}.tlog-proof" for name in ("old", "both", "new")]

    def verified(*vkeys: str) -> bool:
        given = [word for vkey in vkeys for word in ("--vkey", vkey)]
        return desk.run("verify", "--no-figures", *given).code == 0

    def proven(proof: Path, vkey: str) -> bool:
        return wenming("check-proof", proof, "--vkey", vkey).code == 0

    assert desk.run("sign", "--once", "--key", desk.key).code == 0
    desk.run("prove", 1, "--output", proofs[0])
    desk.site.grow(1)
    assert desk.run("sign", "--once", "--key", desk.key).code == 0
    assert verified(desk.vkey)

    new_vkey = wenming("key", "new", "--name", NAME, next_key).out.strip()
    desk.key.write_text(
        desk.key.read_text() + next_key.read_text()
    )  # the same file: the old one, then the new one
    desk.site.grow(1)
    assert desk.run("sign", "--once", "--key", desk.key).code == 0
    desk.run("prove", 1, "--output", proofs[1])
    assert verified(desk.vkey)
    assert verified(desk.vkey, new_vkey)
    assert verified(new_vkey)

    desk.key.write_text(next_key.read_text())
    desk.site.grow(1)
    assert desk.run("sign", "--once", "--key", desk.key).code == 0
    desk.run("prove", 1, "--output", proofs[2])
    assert not verified(desk.vkey)
    assert verified(desk.vkey, new_vkey)
    assert verified(new_vkey)
    assert [proven(proof, desk.vkey) for proof in proofs] == [True, True, False]
    assert [proven(proof, new_vkey) for proof in proofs] == [False, True, True]


def test_serving_says_what_is_wrong_with_its_keys_and_witnesses_before_it_starts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENMING_SIGNING_KEY", str(desk.key))
    monkeypatch.setenv("WENMING_WITNESSES", str(desk.witnesses))
    desk.witnesses.write_text("rubbish\n", "utf-8")
    refused(desk.run("serve"), "INVALID_REQUEST")
    desk.key.write_text("rubbish\n", "utf-8")
    refused(desk.run("serve"), "NOTE_KEY_MALFORMED")
