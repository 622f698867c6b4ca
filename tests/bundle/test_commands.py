"""`wenming export bundle` and `wenming verify` over bundles, as people run them; and what a bundle gives away."""

import json
import re
from pathlib import Path

import pytest

from api.demo.run import Plan, fill, open_demo
from api.settings import read_settings
from ledger.events import VolunteerEnrolled
from ledger.signing_keys import read_key_files
from tests.bundle.conftest import entries, packed
from tests.cli import Done, wenming
from tests.signer.conftest import Site

NAME = "ledger.example/gangu"


class Desk:
    """A ledger with a signing key, twelve facts signed; commands run on it in a folder of their own."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder, self.key = site, folder, folder / "log.key"
        self.vkey = wenming("key", "new", "--name", NAME, self.key).out.strip()
        self.grow(12)

    def grow(self, facts: int) -> None:
        self.site.grow(facts)
        assert self.run("sign", "--key", self.key, "--once").code == 0

    def run(self, *arguments: object) -> Done:
        return wenming(*arguments, "--database", self.site.url)

    def export(self, name: str, *options: object) -> tuple[Path, Done]:
        file = self.folder / name
        return file, self.run("export", "bundle", file, *(options or ("--vkey", self.vkey)))


@pytest.fixture
def desk(sqlite_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(sqlite_site, tmp_path)


def refused(done: Done, code: str) -> None:
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"{code}  ")
    assert "Traceback" not in done.err


def test_from_an_export_to_growth_shown_on_another_machine(desk: Desk) -> None:
    old, done = desk.export("old.zip")
    assert (done.code, "12 facts" in done.out) == (0, True)
    assert "writing the bundle: 12 of 12" in done.err
    assert "checking the bundle: 12 of 12" in done.err
    desk.grow(8)
    new, _ = desk.export("new.zip", "--key", desk.key)
    done = wenming("verify", new, "--vkey", desk.vkey, "--since", old)
    assert done.code == 0
    assert "verifying facts: 20 of 20" in done.err
    assert f"bundle of {NAME}, 20 facts" in done.out
    assert done.out.splitlines()[-2:] == [
        "✓ no defect", "✓ the earlier log, of 12 facts, is the beginning of this one",
    ]  # fmt: skip
    done = desk.run("verify", "--no-figures", "--since", old, "--vkey", desk.vkey)
    assert (done.code, "of 12 facts" in done.out) == (0, True)


def test_json_says_what_was_checked_and_what_is_only_claimed(desk: Desk) -> None:
    file, _ = desk.export("log.zip")
    note = desk.folder / "kept.checkpoint"
    note.write_text(desk.run("checkpoint").out, encoding="utf-8")
    said = json.loads(wenming("verify", file, "--vkey", desk.vkey, "--since", note, "--json").out)
    assert list(said) == [
        "ok", "size", "root", "checks", "defects", "defect_count", "seconds", "witnessed", "figures", "since",
        "bundle",
    ]  # fmt: skip
    assert (said["ok"], said["size"], said["figures"], said["defects"]) == (True, 12, None, [])
    assert said["since"] == {"origin": NAME, "size": 12, "root": said["root"]}
    assert (said["bundle"]["origin"], said["bundle"]["keys"]) == (NAME, [desk.vkey])
    plain = json.loads(desk.run("verify", "--no-figures", "--json").out)
    assert list(plain) == list(said)
    assert (plain["since"], plain["bundle"]) == (None, None)


def test_a_defect_is_exit_code_1_and_says_where(desk: Desk) -> None:
    file, _ = desk.export("log.zip")
    content = entries(file)
    content["facts/000000.ndjson"] = content["facts/000000.ndjson"].replace(
        '站 6"'.encode(), '所 6"'.encode()
    )
    wrong = packed(content, desk.folder / "wrong.zip")
    done = wenming("verify", wrong, "--vkey", desk.vkey)
    assert done.code == 1
    assert "✗ LEAF_HASH_WRONG  position 7:" in done.out
    said = json.loads(wenming("verify", wrong, "--vkey", desk.vkey, "--json").out)
    assert (said["ok"], said["defects"][0]["position"]) == (False, 7)


def test_wrong_input_is_refused_with_a_sentence(desk: Desk) -> None:
    file, _ = desk.export("log.zip")
    refused(wenming("verify", file), "INVALID_REQUEST")
    refused(wenming("verify", file, "--witness", desk.vkey), "INVALID_REQUEST")
    refused(wenming("verify", file, "--vkey", "nonsense"), "NOTE_KEY_MALFORMED")
    refused(wenming("verify", file, "--vkey", desk.vkey, "--since", desk.key), "BUNDLE_WRONG")
    refused(wenming("verify", desk.key, "--vkey", desk.vkey), "BUNDLE_WRONG")
    done = wenming("verify", desk.folder / "nothing.zip", "--vkey", desk.vkey)
    assert (done.code, done.err.startswith("FileNotFoundError")) == (1, True)
    refused(desk.export("log.zip")[1], "BUNDLE_EXISTS")
    refused(desk.run("export", "bundle", desk.folder / "more.zip"), "INVALID_REQUEST")
    other = wenming("key", "new", "--name", NAME, desk.folder / "other.key").out.strip()
    refused_by_check = desk.export("more.zip", "--vkey", other)[1]
    assert (refused_by_check.code, "CHECKPOINT_NOTE_WRONG" in refused_by_check.err) == (1, True)
    done = wenming("verify", file, "--vkey", desk.vkey, "--origin", "ledger.example/other")
    assert (done.code, "CHECKPOINT_ORIGIN_WRONG" in done.out) == (1, True)


def test_nothing_signed_is_nothing_to_export(sqlite_site: Site, tmp_path: Path) -> None:
    sqlite_site.grow(3)
    vkey = wenming("key", "new", "--name", NAME, tmp_path / "log.key").out.strip()
    done = wenming("export", "bundle", tmp_path / "x.zip", "--vkey", vkey, "--database", sqlite_site.url)
    refused(done, "NOT_FOUND")


def test_no_name_no_number_and_no_key_leaves_with_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the key store unseals of a demonstration county, and its own file, looked for in every byte."""
    monkeypatch.chdir(tmp_path)
    plan = Plan(volunteers=20, months=1, seed=5)
    parts = open_demo(read_settings(database=f"sqlite:///{tmp_path / 'demo.db'}"), plan)
    fill(parts, plan)
    profiles = [
        json.loads(row.state)["profile"] for row in parts.log.read() if row.topic == VolunteerEnrolled.TOPIC
    ]
    secrets = {
        value
        for fields in parts.keys.unseal_many(VolunteerEnrolled.TOPIC, profiles)
        for value in (fields or {}).values()
        if value is not None and len(value) > 1
    }
    parts.close()
    assert len(secrets) > 40
    vkey = wenming("key", "new", "--name", NAME, tmp_path / "log.key").out.strip()
    url = f"sqlite:///{tmp_path / 'demo.db'}"
    assert wenming("sign", "--key", tmp_path / "log.key", "--once", "--database", url).code == 0
    assert wenming("export", "bundle", tmp_path / "log.zip", "--vkey", vkey, "--database", url).code == 0
    content = entries(tmp_path / "log.zip")
    told = b"\n".join(data for path, data in content.items() if path != "README.txt").decode(
        "utf-8", "replace"
    )
    assert [secret for secret in secrets if secret in told] == []
    assert profiles[0] in told
    (key,) = read_key_files([tmp_path / "log.key"])
    assert key.seed not in (tmp_path / "log.zip").read_bytes()
    assert not re.search("PRIVATE", told)
