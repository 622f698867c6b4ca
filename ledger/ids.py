"""Ids that follow from what a thing is, so that making it twice is a conflict and not a double."""

from datetime import date
from uuid import UUID, uuid5


def rulebook_id(ledger_id: UUID) -> UUID:
    """The one stream of rule-book editions."""
    return uuid5(ledger_id, "rulebook")


def unit_id(ledger_id: UUID, kind: str, division_code: str | None) -> UUID:
    """Of the one centre, or of the institute or station of a division (names repeat, codes do not)."""
    return uuid5(ledger_id, "unit|centre" if kind == "centre" else f"unit|{kind}|{division_code}")


def team_id(ledger_id: UUID, kind: str, unit: UUID, category: str | None) -> UUID:
    """Of a team: one corps, one branch or squad a unit, one team a category (S029–S035)."""
    if kind == "corps":
        return uuid5(ledger_id, "team|corps")
    return uuid5(ledger_id, f"team|{kind}|{unit}|{category or ''}")


def command_id(ledger_id: UUID, person_id: UUID, key: str) -> UUID:
    """Of the command a person sent under an idempotency key: a retry carries the same id."""
    return uuid5(ledger_id, f"command|{person_id}|{key}")


def system_person_id(ledger_id: UUID) -> UUID:
    """The ledger itself, as the one who lets overdue offers expire."""
    return uuid5(ledger_id, "person|system")


def subject_id(ledger_id: UUID, person_id: UUID) -> UUID:
    """Of the stream that says how a person's data may be used; their own stream says what they did."""
    return uuid5(ledger_id, f"subject|{person_id}")


def entry_id(volunteer_id: UUID, session_id: UUID, revision: int, served_on: date) -> UUID:
    """Of the entry a session's revision posts for one local day; a session id is unique in its account only."""
    return uuid5(uuid5(volunteer_id, str(session_id)), f"entry|{revision}|{served_on.isoformat()}")


def reversal_id(entry: UUID) -> UUID:
    """Of the one entry that can reverse ``entry``."""
    return uuid5(entry, "reversal")


def certificate_id(ledger_id: UUID, number: str) -> UUID:
    """Of the one certificate that can have this number."""
    return uuid5(ledger_id, f"certificate|{number}")
