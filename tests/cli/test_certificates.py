"""`wenming certificate`: issued, printed, checked, listed and revoked from the command line (L17, L18, T35–T37)."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.api.conftest import NAME, Town, founded, name, sqlite_settings
from tests.api.test_certificates import LOG_KEY
from tests.cli import Done, wenming


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    """A town where Wang served and a key signs certificates; its settings are those of the environment."""
    settings = sqlite_settings(tmp_path)
    monkeypatch.setenv("WENMING_DATABASE", settings.database)
    monkeypatch.setenv("WENMING_CERTIFICATE_KEY", str(settings.certificate_key))
    for town in founded(settings):
        town.enrol()
        town.served()
        town.issuer()
        yield town


def certificate(town: Town, command: str, who: str, *arguments: object) -> Done:
    return wenming("certificate", command, *arguments, "--api-key", town.keys[who])


def refused(done: Done, code: str) -> None:
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"{code}  ")


def test_a_certificate_from_issue_to_revocation(town: Town, tmp_path: Path) -> None:
    issued = certificate(town, "issue", "organiser", name("wang"), "2026-03-01", "2026-03-02")
    assert issued.code == 0, issued.err
    number, file = issued.out.strip(), tmp_path / "one.pdf"
    refused(certificate(town, "print", "wang", number, file), "NOT_SIGNED_YET")
    town.sign()
    printed = certificate(town, "print", "wang", number.lower(), file)
    assert printed.out.strip() == hashlib.sha256(file.read_bytes()).hexdigest()
    refused(certificate(town, "print", "wang", number, file), "INVALID_REQUEST")
    checked = wenming("check-certificate", file, "--vkey", LOG_KEY.verifier_key.to_text(), "--name", NAME)
    assert checked.code == 0, checked.err
    refused(certificate(town, "revoke", "organiser", number, "issued_by_mistake"), "SELF_APPROVAL")
    assert certificate(town, "revoke", "checker", number, "issued_by_mistake").code == 0
    (row,) = [json.loads(line) for line in wenming("certificate", "list", "--json").out.splitlines()]
    assert (row["certificate_number"], row["status"], row["prints"]) == (number, "revoked", 1)


def test_touched_ones_are_listed(town: Town) -> None:
    """L17"""
    certificate(town, "issue", "wang", name("wang"), "2026-03-01", "2026-03-02")
    assert wenming("certificate", "list", "--touched", "--json").out == ""
    town.now = datetime.now(UTC)  # commands have the clock of this machine
    town.done(town.correction(kind="reverse"), "checker", {"verdict": "approved"})
    (row,) = [
        json.loads(line) for line in wenming("certificate", "list", "--touched", "--json").out.splitlines()
    ]
    assert row["status"] == "corrected"


def test_what_makes_no_sense_is_refused(town: Town, tmp_path: Path) -> None:
    wang, today = name("wang"), "2026-03-02"
    refused(certificate(town, "issue", "auditor", wang, today, today), "WRONG_ROLE")
    refused(certificate(town, "issue", "wang", wang, "0001-01-01", today), "INVALID_REQUEST")
    refused(certificate(town, "issue", "wang", wang, "yesterday", today), "INVALID_REQUEST")
    refused(certificate(town, "issue", "wang", wang, today, "2199-12-31"), "BAD_PERIOD")
    refused(certificate(town, "revoke", "admin", "2026-00000-00000-H", "no reason!"), "INVALID_REQUEST")
    refused(certificate(town, "revoke", "admin", "2026-00000-00000-0", "lost"), "CERTIFICATE_NUMBER_WRONG")
    refused(
        certificate(town, "print", "admin", "2026-00000-00000-H", tmp_path / "x.pdf"), "UNKNOWN_CERTIFICATE"
    )
    assert not (tmp_path / "x.pdf").exists()
    refused(wenming("certificate", "issue", wang, today, today, "--api-key", "wm_nobody"), "UNAUTHENTICATED")
