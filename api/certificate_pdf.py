"""The certificate as a PDF: a sheet of what it says goes in, the same bytes come out, whenever and wherever.

PDF/A-3a with the offline record attached. What may not live here: the ledger, clocks and settings; every value that
is printed stands in the `Sheet`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

TEMPLATE_VERSION = 1
"""Printed certificates name it: another template, typeface or engine gives other bytes."""


@dataclass(frozen=True)
class ServiceLine:
    """One entry of the account; its minutes are negative where it reverses another. Kind and class are codes."""

    served_on: date
    activity_kind: str
    unit_name: str
    minutes: int
    source_class: str
    position: int


@dataclass(frozen=True)
class Sheet:
    """Everything a certificate shows. Both days are included; ``root_hex`` has 64 digits; times are instants."""

    number: str
    county_name: str
    holder_name: str
    id_number_masked: str | None
    volunteer_number: str
    first_on: date
    last_on: date
    issued_on: date
    services: int
    minutes: int
    minutes_by_class: Mapping[str, int]
    """By source class; they add up to ``minutes``."""
    lines: tuple[ServiceLine, ...]
    lines_left_out: int
    """How many lines are not shown; without any, the lines add up to ``minutes``."""
    issuer_name: str
    check_url: str
    """What the QR code holds: ``{public_url}/verify/{number}#{claim}``."""
    origin: str
    tree_size: int
    root_hex: str
    as_of_position: int
    as_of_at: datetime
    replaces_number: str | None
    record: bytes
    """`ledger.certificates.Record.to_bytes`."""
