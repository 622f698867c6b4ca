"""What is certified, printed, replaced and revoked, and by whom (L17–L21, L33, T35–T37, F25, F26)."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import event
from hypothesis import given as for_all
from hypothesis import strategies as st

from ledger import commands as c
from ledger import events as e
from ledger import ids
from ledger.errors import (
    AlreadyExistsError,
    NotAllowedNowError,
    NothingToCertifyError,
    OutsideSubtreeError,
    PeriodError,
    SelfApprovalError,
    SubjectErasedError,
    SubjectRestrictedError,
    UnknownCertificateError,
    UnknownIssuerKeyError,
    UnknownVolunteerError,
    WrongRoleError,
)
from ledger.rulebook import local_day
from tests.rules.given import (
    ADMIN,
    ANOTHER,
    COUNTY,
    DISPATCHER,
    ELSEWHERE,
    LEDGER_ID,
    LI,
    NOW,
    ORDER,
    ORGANISER,
    RECORDER,
    SEALED,
    STATION,
    SUN,
    WANG,
    History,
    a,
    a_backfill,
    a_recorded_session,
    ago,
    approval,
    by,
    fact,
    given,
    name,
    themself,
)

NUMBER, OTHER = "2026-74WKJ-E9S74-R", "2026-00000-00000-H"
CERTIFICATE, OTHER_CERTIFICATE = (ids.certificate_id(LEDGER_ID, number) for number in (NUMBER, OTHER))
VKEY = "ledger.example/gangu+4d3c2b1a+AeHjNyWJHJLlLkwnsp1zRZ8ZXvDk8Rm3cEHmQ8A9ZCyA"
KEY = ids.issuer_key_id(LEDGER_ID, VKEY)
TODAY, YEAR_BEGIN = local_day(NOW), date(2026, 1, 1)
SESSION = name("session", LI)
RECORDED = a_recorded_session()
"""Li served two hours today for an order."""


def issue(number: str = NUMBER, **how: Any) -> c.IssueCertificate:
    asked: dict[str, Any] = {
        "certificate_number": number,
        "volunteer_id": LI,
        "first_on": YEAR_BEGIN,
        "last_on": TODAY,
        "holder": SEALED,
        "commitment": "5f" * 32,
    }
    return c.IssueCertificate(**{**asked, **how})


def printed(number: str = NUMBER, pdf: str = "00" * 32) -> c.RecordPrint:
    return c.RecordPrint(
        certificate_number=number,
        pdf_sha256=pdf,
        claim="AQ",
        issuer_key_id=KEY,
        checkpoint="ledger.example\n9\n",
        template_version=1,
    )


def revocation(number: str = NUMBER) -> c.RevokeCertificate:
    return c.RevokeCertificate(certificate_number=number, reason="issued_by_mistake")


def reversal(history: History, number: int = 1) -> History:
    """The session of `RECORDED` is reversed."""
    asked = c.RequestCorrection(
        volunteer_id=LI,
        request_id=name("reversal", number),
        session_id=SESSION,
        kind="reverse",
        reason=SEALED,
    )
    return history.after(asked, themself(LI)).after(approval(asked), ORGANISER)


def standing(person_erased: bool) -> list[e.Fact]:
    kind = e.SubjectErased if person_erased else e.SubjectRestricted
    return [fact(kind, ids.subject_id(LEDGER_ID, LI), subject_id=LI, request_id=name("request"))]


ISSUED = RECORDED.after(issue(), ORGANISER)
KEYED = ISSUED.after(c.RegisterIssuerKey(vkey=VKEY))
PRINTED = KEYED.after(printed(), themself(LI))


# --- issuing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [themself(LI), ORGANISER, ADMIN])
def test_a_certificate_states_what_the_account_holds(who: Any) -> None:
    """L18, L19, T35: by the person themself or staff of the home unit; every figure is the ledger's."""
    RECORDED.when(issue(), who).then(
        a(
            e.CertificateIssued,
            originator_id=CERTIFICATE,
            certificate_number=NUMBER,
            volunteer_id=LI,
            volunteer_number="gg-1",
            unit_id=STATION,
            minutes=120,
            services=1,
            minutes_machine=0,
            minutes_confirmed=120,
            minutes_backfilled=0,
            minutes_imported=0,
            reversals=0,
            as_of_position=len(RECORDED.facts),
            rulebook_version=1,
            replaces_id=None,
        )
    )


@pytest.mark.parametrize(
    ("who", "refusal"),
    [
        (themself(WANG), WrongRoleError),
        (RECORDER, WrongRoleError),
        (DISPATCHER, WrongRoleError),
        (by("auditor", "auditor"), WrongRoleError),
        (ELSEWHERE, OutsideSubtreeError),
    ],
)
def test_nobody_else_has_one_issued(who: Any, refusal: type[Exception]) -> None:
    RECORDED.when(issue(), who).then_refused(refusal)  # type: ignore[arg-type]


def test_a_period_without_a_minute_is_not_certified() -> None:
    """L18: truthful."""
    yesterday = TODAY - timedelta(days=1)
    RECORDED.when(issue(last_on=yesterday), ORGANISER).then_refused(NothingToCertifyError)
    RECORDED.when(issue(volunteer_id=SUN), ADMIN).then_refused(NothingToCertifyError)
    reversal(RECORDED).when(issue(), ORGANISER).then_refused(NothingToCertifyError)


def test_a_period_ends_today_at_the_latest_and_not_before_it_begins() -> None:
    for first_on, last_on in ((TODAY, TODAY - timedelta(days=1)), (TODAY, TODAY + timedelta(days=1))):
        RECORDED.when(issue(first_on=first_on, last_on=last_on), ORGANISER).then_refused(PeriodError)
    RECORDED.when(issue(first_on=TODAY), ORGANISER).then(a(e.CertificateIssued, minutes=120))


def test_who_withdrew_may_still_have_their_service_certified() -> None:
    """PIPL art. 15: what was served stays served."""
    gone = RECORDED.after(c.WithdrawVolunteer(volunteer_id=LI), themself(LI))
    gone.when(issue(), themself(LI)).then(a(e.CertificateIssued, minutes=120))


@pytest.mark.parametrize(("erased", "refusal"), [(True, SubjectErasedError), (False, SubjectRestrictedError)])
def test_whose_data_may_not_be_used_is_neither_certified_nor_printed(erased: bool, refusal: Any) -> None:
    """T51"""
    closed = History([*KEYED.facts, *standing(erased)])
    closed.when(issue(OTHER), ORGANISER).then_refused(refusal)
    closed.when(printed(), ORGANISER).then_refused(refusal)


def test_a_number_names_one_certificate() -> None:
    ISSUED.when(issue(), ADMIN).then_refused(AlreadyExistsError, id=CERTIFICATE)
    RECORDED.when(issue(volunteer_id=ORDER), ADMIN).then_refused(UnknownVolunteerError)


def test_minutes_are_told_apart_by_how_they_are_known() -> None:
    """T24, L19"""
    claim = a_backfill(LI, ago(hours=60), ago(hours=59))
    both = RECORDED.after(claim, themself(LI)).after(approval(claim), ORGANISER)
    both.when(issue(), ORGANISER).then(
        a(e.CertificateIssued, minutes=180, minutes_confirmed=120, minutes_backfilled=60, services=2)
    )


# --- replacing -------------------------------------------------------------------------------------------------------


def test_a_new_certificate_supersedes_an_old_one_in_the_same_breath() -> None:
    """T37"""
    ISSUED.when(issue(OTHER, replaces_number=NUMBER), themself(LI)).then(
        a(e.CertificateIssued, originator_id=OTHER_CERTIFICATE, replaces_id=CERTIFICATE),
        a(e.CertificateSuperseded, originator_id=CERTIFICATE, replaced_by_id=OTHER_CERTIFICATE),
    )


def test_only_a_valid_certificate_of_the_same_person_is_superseded() -> None:
    replacing = issue(OTHER, replaces_number=NUMBER)
    RECORDED.when(replacing, ADMIN).then_refused(UnknownCertificateError, number=NUMBER)
    revoked = ISSUED.after(revocation(), ANOTHER)
    revoked.when(replacing, ADMIN).then_refused(NotAllowedNowError, status="revoked")
    superseded = ISSUED.after(replacing, ADMIN)
    third = issue("2026-ZZZZZ-ZZZZZ-N", replaces_number=NUMBER)
    superseded.when(third, ADMIN).then_refused(NotAllowedNowError, status="superseded")
    claim = a_backfill(WANG, ago(hours=60), ago(hours=59))
    wang_too = ISSUED.after(claim, themself(WANG)).after(approval(claim), ORGANISER)
    wang_too.when(issue(OTHER, volunteer_id=WANG, replaces_number=NUMBER), themself(WANG)).then_refused(
        UnknownCertificateError
    )


# --- printing --------------------------------------------------------------------------------------------------------


def test_a_print_is_recorded_with_what_makes_it_again() -> None:
    """T36"""
    KEYED.when(printed(), themself(LI)).then(
        a(e.CertificatePrinted, originator_id=CERTIFICATE, pdf_sha256="00" * 32, issuer_key_id=KEY)
    )


def test_the_same_bytes_printed_again_are_nothing_new_and_others_are() -> None:
    PRINTED.when(printed(), ORGANISER).then_nothing()
    PRINTED.when(printed(pdf="11" * 32), ORGANISER).then(a(e.CertificatePrinted, pdf_sha256="11" * 32))


def test_only_a_registered_key_that_is_in_use_signs() -> None:
    """F25"""
    ISSUED.when(printed(), ORGANISER).then_refused(UnknownIssuerKeyError, id=KEY)
    retired = KEYED.after(c.RetireIssuerKey(issuer_key_id=KEY, reason="lost"))
    retired.when(printed(), ORGANISER).then_refused(NotAllowedNowError, status="retired")


def test_what_was_superseded_or_revoked_is_not_printed() -> None:
    """F26"""
    for after in (
        KEYED.after(revocation(), ANOTHER),
        KEYED.after(issue(OTHER, replaces_number=NUMBER), themself(LI)),
    ):
        after.when(printed(), ORGANISER).then_refused(NotAllowedNowError, action="print")


def test_a_stranger_prints_nothing() -> None:
    KEYED.when(printed(), themself(WANG)).then_refused(WrongRoleError)
    KEYED.when(printed(), ELSEWHERE).then_refused(OutsideSubtreeError)
    KEYED.when(printed(OTHER), ORGANISER).then_refused(UnknownCertificateError, number=OTHER)


# --- revoking --------------------------------------------------------------------------------------------------------


def test_a_certificate_is_revoked_by_another_person_than_who_issued_it() -> None:
    """T37, F08, F26"""
    ISSUED.when(revocation(), ANOTHER).then(a(e.CertificateRevoked, reason="issued_by_mistake"))
    ISSUED.when(revocation(), ORGANISER).then_refused(SelfApprovalError)
    ISSUED.when(revocation(), by(ORGANISER.person_id, "admin")).then_refused(SelfApprovalError)


def test_nobody_revokes_their_own() -> None:
    own = RECORDED.after(issue(), themself(LI))
    own.when(revocation(), by(LI, "organiser", STATION)).then_refused(SelfApprovalError)
    ISSUED.when(revocation(), by(LI, "organiser", STATION)).then_refused(SelfApprovalError)
    ISSUED.when(revocation(), themself(WANG)).then_refused(WrongRoleError)
    ISSUED.when(revocation(), ELSEWHERE).then_refused(OutsideSubtreeError)


def test_it_is_revoked_once_also_after_it_was_superseded() -> None:
    revoked = ISSUED.after(revocation(), ANOTHER)
    revoked.when(revocation(), ADMIN).then_refused(NotAllowedNowError, status="revoked")
    superseded = ISSUED.after(issue(OTHER, replaces_number=NUMBER), themself(LI))
    superseded.when(revocation(), ANOTHER).then(a(e.CertificateRevoked))
    RECORDED.when(revocation(), ANOTHER).then_refused(UnknownCertificateError)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_registered_once_by_an_administrator() -> None:
    """F25"""
    register = c.RegisterIssuerKey(vkey=VKEY)
    given(COUNTY).when(register).then(a(e.IssuerKeyRegistered, originator_id=KEY, vkey=VKEY))
    given(COUNTY).when(register, ORGANISER).then_refused(WrongRoleError)
    known = given(COUNTY).after(register)
    known.when(register).then_refused(AlreadyExistsError, id=KEY)
    known.when(c.RetireIssuerKey(issuer_key_id=KEY, reason="lost"), ORGANISER).then_refused(WrongRoleError)


def test_a_retired_key_stays_retired() -> None:
    retire = c.RetireIssuerKey(issuer_key_id=KEY, reason="rotated")
    given(COUNTY).when(retire).then_refused(UnknownIssuerKeyError, id=KEY)
    known = given(COUNTY).after(c.RegisterIssuerKey(vkey=VKEY))
    known.when(retire).then(a(e.IssuerKeyRetired, reason="rotated"))
    known.after(retire).when(retire).then_nothing()
    known.after(retire).when(c.RegisterIssuerKey(vkey=VKEY)).then_refused(AlreadyExistsError)


# --- always ----------------------------------------------------------------------------------------------------------

Change = tuple[int, int, int]
"""What to do (back-fill, amend, reverse), how many hours ago, how many minutes."""
CHANGES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(3, 400), st.integers(1, 300)), min_size=1, max_size=6
)
PERIODS = st.tuples(st.integers(0, 16), st.integers(0, 16))
"""First and last day, as days before today."""


def change(history: History, number: int, what: Change) -> History:
    """The history after one more wish, if the rules allow it."""
    kind, hours, minutes = what
    start = ago(hours=hours)
    asked: c.RequestBackfill | c.RequestCorrection
    if kind == 0:
        asked = a_backfill(LI, start, start + timedelta(minutes=minutes), number=number)
    else:
        sessions = sorted(history.state(LI).sessions, key=str)
        times = {"started_at": start, "ended_at": start + timedelta(minutes=minutes)} if kind == 1 else {}
        asked = c.RequestCorrection(
            volunteer_id=LI,
            request_id=name("change", number),
            session_id=sessions[minutes % len(sessions)],
            kind="amend" if kind == 1 else "reverse",
            reason=SEALED,
            **times,
        )
    wished = history.when(asked, themself(LI))
    if wished.refusal is not None:
        return history
    decided = wished.history.when(approval(asked), ADMIN)
    return wished.history if decided.refusal is not None else decided.history


def naive_minutes(facts: Sequence[e.Fact], first_on: date, last_on: date) -> tuple[int, int, int]:
    """Minutes, services and reversals of a period, from the facts alone."""
    posted = [f for f in facts if isinstance(f, e.EntryPosted) and f.originator_id == LI]
    inside = [f for f in posted if first_on <= f.served_on <= last_on]
    return (
        sum(f.minutes for f in inside),
        sum(f.services for f in inside),
        sum(f.reverses_entry_id is not None for f in inside),
    )


@for_all(before=CHANGES, after=CHANGES, period=PERIODS)
def test_a_certificate_states_the_entries_of_its_period_and_never_changes(
    before: list[Change], after: list[Change], period: tuple[int, int]
) -> None:
    """T37: whatever was corrected before counts, and whatever is corrected after does not."""
    last_on, first_on = (TODAY - timedelta(days=days) for days in sorted(period))
    history = RECORDED
    for number, what in enumerate(before):
        history = change(history, number, what)
    outcome = history.when(issue(first_on=first_on, last_on=last_on), ORGANISER)
    minutes, services, reversals = naive_minutes(history.facts, first_on, last_on)
    if minutes == 0:
        outcome.then_refused(NothingToCertifyError)
        return
    (issued,) = outcome.facts
    assert isinstance(issued, e.CertificateIssued)
    told = (issued.minutes, issued.services, issued.reversals, issued.as_of_position)
    assert told == (minutes, services, reversals, len(history.facts))
    by_class = issued.minutes_machine + issued.minutes_confirmed + issued.minutes_backfilled
    assert by_class + issued.minutes_imported == minutes
    later = outcome.history
    for number, what in enumerate(after):
        later = change(later, 100 + number, what)
    event(f"{len(later.facts) > len(outcome.history.facts)}: something happened later")
    assert later.state(CERTIFICATE).issued == issued
    assert naive_minutes(later.facts[: issued.as_of_position], first_on, last_on) == told[:3]
