"""Certificates by HTTP: issued, signed, printed, fetched, replaced, corrected, revoked (L17–L21, T35–T37, F25, F26)."""

import hashlib
import io
from typing import Any
from uuid import UUID

import pypdf
import pytest

from ledger import ids
from ledger.certificates import CheckedCertificate, Record, require_number
from ledger.checkpoint import SignerKey
from ledger.errors import CertificateWrongError
from tests.api.conftest import LEDGER_ID, NAME, Town, id_number, name

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


# --- issuing and printing, refused and repeated ----------------------------------------------------------------------


def test_a_retry_gets_the_first_certificate_and_a_dry_run_none(served: Town) -> None:
    body = {"volunteer_id": name("wang"), "first_on": "2026-03-01", "last_on": served.today}
    head = served.parts.log.head().size
    tried = served.done("/certificates?dry_run=true", "organiser", body)
    assert (tried["facts"][0]["data"]["minutes"], served.parts.log.head().size) == (140, head)
    first = served.done("/certificates", "organiser", body, key="once")
    again = served.done("/certificates", "organiser", body, key="once")
    assert again["replayed"]
    assert (again["number"], again["facts"]) == (first["number"], first["facts"])
    other = body | {"first_on": served.today}
    assert problem(served.post("/certificates", "organiser", other, key="once")) == (422, "KEY_REUSED")
    assert problem(served.post("/certificates", "organiser", body, key=None)) == (400, "KEY_REQUIRED")


def test_what_cannot_be_certified_is_refused_with_its_reason(served: Town) -> None:
    body = {"volunteer_id": name("wang"), "first_on": "2026-03-01", "last_on": served.today}
    cases = [
        ("zhao", body, (403, "ONLY_THEMSELVES")),
        ("stranger", body, (403, "OUTSIDE_YOUR_UNITS")),
        ("recorder", body, (403, "WRONG_ROLE")),
        ("organiser", body | {"last_on": "2026-03-01"}, (409, "NOTHING_TO_CERTIFY")),
        ("organiser", body | {"last_on": "2026-12-31"}, (422, "BAD_PERIOD")),
        ("organiser", body | {"volunteer_id": name("nobody")}, (404, "UNKNOWN_VOLUNTEER")),
        ("organiser", body | {"replaces": "2026-00000-00000-0"}, (422, "CERTIFICATE_NUMBER_WRONG")),
        ("organiser", body | {"replaces": "2026-00000-00000-H"}, (404, "UNKNOWN_CERTIFICATE")),
        ("organiser", body | {"minutes": 9999}, (422, "INVALID_REQUEST")),
    ]
    served.account("zhao", "resident")
    for who, asked, expected in cases:
        if expected[1] == "ONLY_THEMSELVES":
            expected = (403, "WRONG_ROLE")
        assert problem(served.post("/certificates", who, asked)) == expected, asked


def test_without_a_registered_key_nothing_is_printed(town: Town) -> None:
    """F25"""
    town.enrol()
    town.served()
    number = town.certificate()
    town.sign()
    assert problem(town.post(f"/certificates/{number}/print", "wang", {})) == (409, "NO_ISSUER_KEY")
    key_id = town.issuer()
    town.sign()
    town.done(f"/certificates/{number}/print", "wang", {})
    town.done(f"/issuer-keys/{key_id}/retire", "admin", {"reason": "lost"})
    assert problem(town.post(f"/certificates/{number}/print", "wang", {})) == (409, "NO_ISSUER_KEY")
    (key,) = town.seen("/issuer-keys", "wang")["issuer_keys"]
    assert (key["issuer_key_id"], key["retired_for"]) == (key_id, "lost")
    assert town.get(f"/certificates/{number}.pdf", "wang").status_code == 200


def test_a_public_key_that_is_none_is_not_registered(town: Town) -> None:
    good = LOG_KEY.verifier_key.to_text()
    name_, _, rest = good.partition("+")
    for wrong in (f"{name_}.other+{rest}", good[:-1] + ("A" if good[-1] != "A" else "B"), "rubbish"):
        assert problem(town.post("/issuer-keys", "admin", {"vkey": wrong})) == (422, "INVALID_REQUEST")


def test_a_false_document_does_not_pass(served: Town) -> None:
    """F25: another key's signature, another name, another log."""
    record = record_in(served.printed(served.certificate()))
    signed = record.issued.proof
    forged_holder = record.model_copy(update={"holder": record.holder.model_copy(update={"name": "李四"})})
    other_key = SignerKey("ledger.example/town/issuer", b"\1" * 32)
    claim = checked_claim(record).sign(other_key)
    for false in (forged_holder, record.model_copy(update={"claim": claim})):
        with pytest.raises(CertificateWrongError):
            false.check([LOG_KEY.verifier_key], LOG_KEY.name)
    with pytest.raises(CertificateWrongError):
        record.check([SignerKey(LOG_KEY.name, b"\2" * 32).verifier_key], LOG_KEY.name)
    assert signed.endswith(record.issuer_key.proof.partition("\n\n")[2])


def checked_claim(record: Record) -> Any:
    return record.check([LOG_KEY.verifier_key], LOG_KEY.name).claim


def test_what_comes_out_otherwise_is_not_handed_out_and_printed_anew(
    served: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another address for checking, as after a move, gives other bytes: that is said, and both prints stay good."""
    number = served.certificate()
    served.sign()
    served.done(f"/certificates/{number}/print", "wang", {}, key="print")
    before = served.get(f"/certificates/{number}.pdf", "wang").content
    moved = served.parts.settings.model_copy(update={"public_url": "https://elsewhere.example"})
    monkeypatch.setitem(vars(served.parts), "settings", moved)
    assert problem(served.get(f"/certificates/{number}.pdf", "wang")) == (409, "RENDERER_CHANGED")
    anew = served.done(f"/certificates/{number}/print", "wang", {}, key="print")
    after = served.get(f"/certificates/{number}.pdf", "wang").content
    assert before != after
    assert anew["pdf_sha256"] == hashlib.sha256(after).hexdigest()
    assert checked(before).claim == checked(after).claim
    assert len(served.seen(f"/certificates/{number}", "wang")["prints"]) == 2


# --- later history ---------------------------------------------------------------------------------------------------


def test_a_correction_lists_the_certificates_it_touches(served: Town) -> None:
    """L17: live, as a page and offline."""
    number, untouched = served.certificate(), None
    pdf = served.printed(number)
    served.wait(days=1)
    served.served("another")
    untouched = served.certificate(first_on=served.today)
    assert served.seen("/certificates", "organiser", touched=True)["certificates"] == []
    served.done(served.correction(kind="reverse"), "checker", {"verdict": "approved"})
    (listed,) = served.seen("/certificates", "organiser", touched=True)["certificates"]
    assert (listed["certificate_number"], listed["status"]) == (number, "corrected")
    assert (listed["reversals"], listed["reversals_now"]) == (0, 1)
    assert served.seen(f"/certificates/{number}", "wang")["status"] == "corrected"
    assert served.seen(f"/certificates/{untouched}", "wang")["status"] == "valid"
    assert checked(pdf).claim.minutes == 140

    new = served.certificate(replaces=number)
    assert served.seen(f"/certificates/{new}", "wang")["status"] == "valid"
    old = served.seen(f"/certificates/{number}", "wang")
    assert (old["status"], old["replaced_by"]) == ("superseded", new)
    assert served.get(f"/certificates/{number}.pdf", "wang").content == pdf
    refused = served.post(f"/certificates/{number}/print", "wang", {})
    assert problem(refused) == (409, "NOT_ALLOWED_NOW")
    by_status = {
        status: [
            c["certificate_number"]
            for c in served.seen("/certificates", "auditor", status=status)["certificates"]
        ]
        for status in ("valid", "corrected", "superseded", "revoked")
    }
    assert by_status == {"valid": [new, untouched], "corrected": [], "superseded": [number], "revoked": []}


def test_a_replacement_says_which_one_it_replaces(served: Town) -> None:
    first = served.certificate()
    second = served.certificate(replaces=first.lower().replace("-", " "))
    text = "".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(served.printed(second))).pages)
    assert first in text
    assert second in text


def test_a_revoked_certificate_says_so_and_why_stays_sealed(served: Town) -> None:
    """T37, F26"""
    number = served.certificate()
    body = {"reason": "issued_by_mistake", "explanation": "标记签到机坏了"}
    for who, expected in (
        ("wang", (403, "WRONG_ROLE")),
        ("organiser", (403, "SELF_APPROVAL")),
        ("stranger", (403, "OUTSIDE_YOUR_UNITS")),
    ):
        assert problem(served.post(f"/certificates/{number}/revoke", who, body))[1] == expected[1], who
    (fact,) = served.done(f"/certificates/{number}/revoke", "checker", body)["facts"]
    assert fact["data"]["explanation"].startswith("s1.")
    shown = served.seen(f"/certificates/{number}", "wang")
    assert (shown["status"], shown["revoked_for"]) == ("revoked", "issued_by_mistake")
    assert problem(served.post(f"/certificates/{number}/print", "wang", {})) == (409, "NOT_ALLOWED_NOW")


def test_a_certificate_is_of_the_moment_it_names(served: Town) -> None:
    """T37: units renamed, hours added, names corrected: the document is what it was."""
    number = served.certificate()
    pdf = served.printed(number)
    served.done(f"/units/{served.station}/rename", "organiser", {"name": "新名站"})
    served.done(f"/volunteers/{name('wang')}/profile", "wang", {"profile": {"name": "王改名"}})
    served.served("another")
    served.sign()
    assert served.get(f"/certificates/{number}.pdf", "wang").content == pdf
    later = checked(served.printed(served.certificate()))
    assert (later.claim.minutes, later.holder.name) == (280, "王改名")


# --- forgetting ------------------------------------------------------------------------------------------------------


def decided(town: Town, kind: str, reason: str | None = None) -> str:
    """A data-subject request of Wang's, decided by another administrator; its id."""
    request_id = name(kind)
    town.account("second admin", "admin")
    town.done("/data-requests", "wang", {"request_id": request_id, "subject_id": name("wang"), "kind": kind})
    outcome = {"outcome": "fulfilled"} if reason is None else {"outcome": "refused", "reason": reason}
    town.done(f"/data-requests/{request_id}/decide", "second admin", outcome)
    return request_id


def test_after_erasure_the_certificate_stands_and_its_document_is_gone(served: Town) -> None:
    """T51"""
    number = served.certificate()
    pdf = served.printed(number)
    request_id = decided(served, "erasure")
    served.done(f"/data-requests/{request_id}/erase", "admin", {})
    for who in ("wang", "organiser", "admin"):
        shown = served.seen(f"/certificates/{number}", who)
        assert (shown["status"], shown["holder_name"]) == ("valid", "〔已删除〕")
        assert problem(served.get(f"/certificates/{number}.pdf", who)) == (410, "SUBJECT_ERASED")
    assert problem(served.post(f"/certificates/{number}/print", "organiser", {})) == (410, "SUBJECT_ERASED")
    assert checked(pdf).claim.minutes == 140


def test_under_a_restriction_only_the_person_themself_has_the_document(served: Town) -> None:
    """T51"""
    number = served.certificate()
    pdf = served.printed(number)
    decided(served, "restriction")
    assert served.seen(f"/certificates/{number}", "organiser")["holder_name"] == "〔已限制〕"
    assert problem(served.get(f"/certificates/{number}.pdf", "organiser")) == (409, "SUBJECT_RESTRICTED")
    assert served.get(f"/certificates/{number}.pdf", "wang").content == pdf
    assert problem(served.post(f"/certificates/{number}/print", "wang", {})) == (409, "SUBJECT_RESTRICTED")


def test_the_whole_file_of_a_person_holds_their_certificates(served: Town) -> None:
    number = served.certificate()
    (one,) = served.seen(f"/volunteers/{name('wang')}/export", "wang")["certificates"]
    (fact,) = one["facts"]
    assert (fact["data"]["certificate_number"], fact["data"]["holder"]["name"]) == (number, NAME)
    assert fact["data"]["holder"]["id_number"] == id_number()


# --- who sees what ---------------------------------------------------------------------------------------------------


def test_the_register_is_for_those_it_concerns(served: Town) -> None:
    number, second = served.certificate(), served.certificate()
    served.account("zhao", "volunteer")
    numbers = {
        who: [c["certificate_number"] for c in served.seen("/certificates", who)["certificates"]]
        for who in ("wang", "zhao", "organiser", "stranger", "auditor")
    }
    both = [second, number]
    assert numbers == {"wang": both, "zhao": [], "organiser": both, "stranger": [], "auditor": both}
    first = served.seen("/certificates", "auditor", limit=1)
    rest = served.seen("/certificates", "auditor", limit=1, after=first["next_after"])
    assert [
        first["certificates"][0]["certificate_number"],
        rest["certificates"][0]["certificate_number"],
    ] == both
    assert rest["next_after"] is None
    assert served.seen("/certificates", "zhao", volunteer_id=name("wang"))["certificates"] == []
    assert problem(served.get("/certificates", "auditor", unit_id=name("nowhere"))) == (404, "UNKNOWN_UNIT")
    assert len(served.seen("/certificates", "auditor", unit_id=served.station)["certificates"]) == 2


def test_a_document_is_for_its_holder_and_their_staff(served: Town) -> None:
    number = served.certificate()
    served.printed(number)
    for who, status in (
        ("wang", 200),
        ("organiser", 200),
        ("admin", 200),
        ("auditor", 403),
        ("stranger", 403),
    ):
        assert served.get(f"/certificates/{number}.pdf", who).status_code == status, who
    assert served.seen(f"/certificates/{number}", "auditor")["holder_name"] is None
    opened = [
        access["topic"]
        for access in served.seen(f"/volunteers/{name('wang')}/access-log", "wang")["accesses"]
        if access["caller_id"] == name("organiser")
    ]
    assert opened.count("certificate.issued") == 1


def test_a_typo_is_told_from_an_unknown_number(served: Town) -> None:
    for path in ("", ".pdf"):
        assert problem(served.get(f"/certificates/2026-00000-00000-0{path}", "admin")) == (
            422,
            "CERTIFICATE_NUMBER_WRONG",
        )
        assert problem(served.get(f"/certificates/2026-00000-00000-H{path}", "admin")) == (
            404,
            "UNKNOWN_CERTIFICATE",
        )
    number = served.certificate()
    misread = number.lower().replace("0", "o").replace("1", "l")
    assert served.seen(f"/certificates/{misread}", "wang")["certificate_number"] == number
    assert ids.certificate_id(LEDGER_ID, number) == UUID(
        served.seen(f"/certificates/{number}", "wang")["certificate_id"]
    )
