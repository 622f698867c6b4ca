"""The public page that says whether a certificate holds today: no login, no script, no personal data beyond a mask."""

from dataclasses import dataclass
from datetime import date
from typing import Literal

Status = Literal["valid", "corrected", "superseded", "revoked"]
NameCheck = Literal["matches", "differs"]
Language = Literal["zh", "en"]


@dataclass(frozen=True)
class PublicCheck:
    """What anybody may know of a certificate. Days are local; ``status`` is the gravest that applies."""

    number: str
    status: Status
    masked_name: str | None
    """As `masked` gives it; None once the name was erased."""
    minutes: int
    services: int
    first_on: date
    last_on: date
    issued_on: date
    issuer_name: str
    county_name: str
    as_of_position: int
    touched: bool
    """Whether an entry of its period was corrected after it was issued."""
    replaced_by_number: str | None
    revoked_on: date | None
    position: int
    """Of `certificate.issued` in the log."""
    commitment: str
    pdf_sha256: tuple[str, ...]
    """Of every printed PDF, the newest last."""
    origin: str | None
    """With ``tree_size`` and ``root_hex``: the newest checkpoint that covers it; None before one does."""
    tree_size: int | None
    root_hex: str | None
