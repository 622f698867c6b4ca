"""The demonstration's own certificate: a key that signs, which the administrator registers, and one to look at."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

from api.certificates import Issuer, Period, Printer, Wish, number_in
from api.demo.county import County, Person
from api.demo.story import LAST_DAY, Story
from api.parts import Parts
from api.personal import Reader
from ledger.application import Ledger
from ledger.commands import RegisterIssuerKey
from ledger.errors import NothingToCertifyError, NotSignedYetError, Refusal
from ledger.rules import Caller
from ledger.signing_keys import create_key_file, read_key_files
from ledger.tree import TreeStore


def heavy(county: County) -> Person:
    """Somebody who serves a lot; their key is among the sample keys."""
    return next((person for person in county.people if person.appetite == "heavy"), county.people[0])


def certify(parts: Parts, county: County, story: Story) -> str | None:
    """Issue the sample certificate; its number. Doing it again changes nothing; None if nobody served enough.

    The issuer's key is made beside the demonstration (mode 0600) where there is none. All of it is recorded at the
    story's end.
    """
    parts = _at_the_end(parts, story)
    _register_key(parts, county)
    person = heavy(county)
    who = Caller(person.person_id, "volunteer")
    period = Period(first_on=story.first_day, last_on=LAST_DAY)
    wish = Wish(person.person_id, period, "demo-certificate")
    (answer,) = Issuer(Reader(parts, who, "demo"), who).issue([wish])
    if isinstance(answer, NothingToCertifyError):
        return None
    if isinstance(answer, Refusal):
        raise answer
    return number_in(answer.facts)


def printed(parts: Parts, number: str, volunteer_id: UUID, file: Path) -> bool:
    """Print the sample certificate into ``file``, for its owner only; False while no signed checkpoint covers it."""
    who = Caller(volunteer_id, "volunteer")
    printer = Printer(Reader(parts, who, "demo"), who, TreeStore(parts.log))
    try:
        _, document = printer.print(number)
    except NotSignedYetError:
        return False
    file.touch(mode=0o600)
    file.write_bytes(document.pdf)
    return True


def _register_key(parts: Parts, county: County) -> None:
    file = parts.settings.certificate_key
    assert file is not None, "the demonstration's settings name a key of its own"
    if not file.exists():
        create_key_file(file, f"wenming.example/demo/{parts.ledger.ledger_id}/issuer")
    vkey = read_key_files([file])[0].verifier_key.to_text()
    parts.ledger.handle(RegisterIssuerKey(vkey=vkey), county.admin, key=f"demo-issuer-key|{vkey[-44:]}")


def _at_the_end(parts: Parts, story: Story) -> Parts:
    """The same ledger with the clock of the story's end, or of its newest fact if that is later."""
    at = max(story.end, parts.log.head().recorded_at)
    return replace(parts, ledger=Ledger(parts.log, digest=parts.keys.request_digest, clock=lambda: at))
