"""Ids that follow from what a thing is, so that making it twice is a conflict and not a double.

Whoever knows the ledger's id can compute them too. So those of streams are UUIDs of version 8, which nobody may choose
for something new (`ledger.commands.NewId`): a station's place, or a person's rights, cannot be taken by another thing.
"""

from datetime import date
from uuid import UUID, uuid5

DERIVED = 8
"""The version of ids that streams have by what they are about."""


def rulebook_id(ledger_id: UUID) -> UUID:
    """The one stream of rule-book editions."""
    return _stream(ledger_id, "rulebook")


def unit_id(ledger_id: UUID, kind: str, division_code: str | None) -> UUID:
    """Of the one centre, or of the institute or station of a division (names repeat, codes do not)."""
    return _stream(ledger_id, "unit|centre" if kind == "centre" else f"unit|{kind}|{division_code}")


def team_id(ledger_id: UUID, kind: str, unit: UUID, category: str | None) -> UUID:
    """Of a team: one corps, one branch or squad a unit, one team a category (S029–S035)."""
    if kind == "corps":
        return _stream(ledger_id, "team|corps")
    return _stream(ledger_id, f"team|{kind}|{unit}|{category or ''}")


def command_id(ledger_id: UUID, person_id: UUID, key: str) -> UUID:
    """Of the command a person sent under an idempotency key: a retry carries the same id."""
    return uuid5(ledger_id, f"command|{person_id}|{key}")


def system_person_id(ledger_id: UUID) -> UUID:
    """The ledger itself, as the one who lets overdue offers expire."""
    return uuid5(ledger_id, "person|system")


def subject_id(ledger_id: UUID, person_id: UUID) -> UUID:
    """Of the stream that says how a person's data may be used; their own stream says what they did."""
    return _stream(ledger_id, f"subject|{person_id}")


def issuer_key_id(ledger_id: UUID, vkey: str) -> UUID:
    """Of a key that signs certificates; one key is registered once."""
    return _stream(ledger_id, f"issuer_key|{vkey}")


def public_id(ledger_id: UUID) -> UUID:
    """Whoever asks without a key, as the access log names them."""
    return uuid5(ledger_id, "person|public")


def entry_id(volunteer_id: UUID, session_id: UUID, revision: int, served_on: date) -> UUID:
    """Of the entry a session's revision posts for one local day; a session id is unique in its account only."""
    return uuid5(uuid5(volunteer_id, str(session_id)), f"entry|{revision}|{served_on.isoformat()}")


def reversal_id(entry: UUID) -> UUID:
    """Of the one entry that can reverse ``entry``."""
    return uuid5(entry, "reversal")


def certificate_id(ledger_id: UUID, number: str) -> UUID:
    """Of the one certificate that can have this number."""
    return _stream(ledger_id, f"certificate|{number}")


def is_derived(stream_id: UUID) -> bool:
    """Whether it is the id of a stream that follows from what the stream is about."""
    return stream_id.version == DERIVED


def _stream(ledger_id: UUID, what: str) -> UUID:
    """The UUID of version 5, but for the version: RFC 9562 leaves 8 to whoever needs one of their own."""
    named = uuid5(ledger_id, what).int
    return UUID(int=named & ~(0xF << 76) | DERIVED << 76)
