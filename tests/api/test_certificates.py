"""Certificates by HTTP: issued, signed, printed, fetched, replaced, corrected, revoked (L17–L21, T35–T37, F25, F26)."""

import hashlib
import io
from typing import Any

import pypdf
import pytest

from ledger.certificates import CheckedCertificate, Record, require_number
from ledger.checkpoint import SignerKey
from tests.api.conftest import NAME, Town

LOG_KEY = SignerKey("ledger.example/town", bytes(32))


@pytest.fixture
def served(town: Town) -> Town:
    """A town where Wang served 140 minutes, and a key signs certificates."""
    town.enrol()
    town.served()
    town.issuer()
    return town


def record_in(pdf: bytes) -> Record:
    (data,) = pypdf.PdfReader(io.BytesIO(pdf)).attachments["record.json"]
    return Record.parse(data)


def checked(pdf: bytes) -> CheckedCertificate:
    """The offline check: nothing but the document and the log's public key."""
    return record_in(pdf).check([LOG_KEY.verifier_key], LOG_KEY.name)


def problem(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_from_issue_to_a_document_that_proves_itself(town_anywhere: Town) -> None:
    """L18, L21, T35, T36: the same bytes each time, and an offline check that trusts the log's key alone."""
    town = town_anywhere
    wang = town.enrol()
    town.served()
    key_id = town.issuer()
    number = town.certificate(by="wang")
    assert require_number(number) == number
    early = town.post(f"/certificates/{number}/print", "wang", {})
    assert problem(early) == (409, "NOT_SIGNED_YET")
    assert early.headers["Retry-After"] == "2"
    assert problem(town.get(f"/certificates/{number}.pdf", "wang")) == (404, "NOT_FOUND")

    pdf = town.printed(number)
    assert town.get(f"/certificates/{number}.pdf", "organiser").content == pdf
    found = checked(pdf)
    assert (found.claim.number, found.claim.minutes, found.holder.name) == (number, 140, NAME)
    shown = town.seen(f"/certificates/{number}", "wang")
    assert (shown["status"], shown["minutes"], shown["services"]) == ("valid", 140, 1)
    assert (shown["minutes_confirmed"], shown["volunteer_id"], shown["holder_name"]) == (140, wang, NAME)
    (print_,) = shown["prints"]
    assert print_["pdf_sha256"] == hashlib.sha256(pdf).hexdigest()
    assert print_["issuer_key_id"] == key_id
    assert found.position == shown["position"] == shown["as_of_position"] + 1


def test_printing_again_is_nothing_new(served: Town) -> None:
    number = served.certificate()
    pdf = served.printed(number)
    served.served("another")
    served.sign()
    again = served.done(f"/certificates/{number}/print", "organiser", {})
    assert (again["facts"], again["pdf_sha256"]) == ([], hashlib.sha256(pdf).hexdigest())
    assert served.get(f"/certificates/{number}.pdf", "wang").content == pdf
