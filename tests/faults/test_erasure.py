"""Two hundred people are forgotten: what they did stays provable and counted, who they were is nowhere any more."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pytest

from api import erasure
from api.parts import open_parts
from api.settings import Settings, read_settings
from ledger import archive, audit, rotation
from ledger import commands as c
from ledger.errors import SubjectErasedError
from ledger.merkle import verify_inclusion
from ledger.rules import Caller
from ledger.tree import TreeStore
from projections import follower, replay
from projections.figures import all_figures
from tests import services
from tests.api.conftest import Town, founded, id_number, name
from tests.api.test_privacy import everything_logged, forms
from tests.faults import chances, times

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

MARK, REASON, PHONES, NUMBERS = "王标记桂", "标记签到机坏了", "13893801", "62052319900307"
MARKS = (MARK, REASON, PHONES, NUMBERS)
"""What every name, reason, phone and identity number begins with here, and nothing else in a ledger does."""


@dataclass
class Place:
    """A town, and every folder in which anything of it is kept."""

    town: Town
    folder: Path
    data: Path | None

    def files(self) -> Iterator[tuple[str, bytes]]:
        """The ledger, the keys, their write-ahead logs, the archive; on PostgreSQL the server's whole directory."""
        for folder in filter(None, (self.folder, self.data)):
            for file in folder.rglob("*"):
                if file.is_file():
                    yield str(file.relative_to(folder)), file.read_bytes()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A town on each database in turn; on PostgreSQL the keys lie in a second database of a server of its own."""
    if request.param == "sqlite":
        settings = read_settings(database=f"sqlite:///{tmp_path / 'ledger.db'}")
        for town in founded(settings):
            yield Place(town, tmp_path, None)
        return
    with ExitStack() as stack:
        try:
            server = stack.enter_context(services.private_server())
        except services.ServiceMissingError as missing:
            if services.required():
                pytest.fail(f"PostgreSQL is required here: {missing}")
            pytest.skip(f"PostgreSQL: {missing}")
        ledger, keys = (
            stack.enter_context(services.fresh_database(server.address, each))
            for each in ("forgotten", "keys")
        )
        settings = read_settings(
            database=ledger,
            keys=keys,
            master_key_file=tmp_path / "master",
            archive=tmp_path / "archive",
            follow=True,
        )
        for town in founded(settings):
            yield Place(town, tmp_path, server.data)


def enrol_with_an_hour(town: Town, number: int) -> UUID:
    """Through the key store as the edge does it: name, identity number, phone; and an hour that was approved."""
    ledger, keys, person = town.parts.ledger, town.parts.keys, UUID(name("one of many", number))
    organiser = Caller(UUID(name("organiser")), "organiser", UUID(town.station))
    checker = Caller(UUID(name("checker")), "organiser", UUID(town.station))
    own = {"name": f"{MARK}{number}", "phone": phone(number), "id_number": id_number(number), "address": None}
    keys.claim_id_number(person, id_number(number))
    keys.set_phone(person, phone(number))
    enrol = c.EnrolVolunteer(
        volunteer_id=person,
        volunteer_number=f"gg-{number}",
        home_unit_id=UUID(town.station),
        profile=keys.seal("volunteer.enrolled", person, own),
        consent_document="consent-2026",
        consented_at=town.now,
    )
    asked = c.RequestBackfill(
        volunteer_id=person,
        request_id=UUID(name("request", person)),
        session_id=UUID(name("session", person)),
        unit_id=UUID(town.station),
        activity_kind="culture",
        started_at=town.now - timedelta(hours=3),
        ended_at=town.now - timedelta(hours=2),
        reason=keys.seal("backfill.requested", person, {"text": f"{REASON}{number}"}),
    )
    decided = c.DecideBackfill(volunteer_id=person, request_id=asked.request_id, verdict="approved")
    for command, who in ((enrol, organiser), (asked, Caller(person, "volunteer")), (decided, checker)):
        ledger.handle(command, who)
    return person


def phone(number: int) -> str:
    return f"{PHONES}{number:03d}"


def ask_and_decide(town: Town, person: UUID) -> c.EraseSubject:
    admin, request = Caller(UUID(name("admin")), "admin"), UUID(name("erasure of", person))
    wish = c.RequestData(request_id=request, subject_id=person, kind="erasure")
    town.parts.ledger.handle(wish, Caller(person, "volunteer"))
    town.parts.ledger.handle(c.DecideDataRequest(request_id=request, outcome="fulfilled"), admin)
    return c.EraseSubject(request_id=request)


def figures(town: Town) -> dict[str, Any]:
    follower.catch_up(town.parts.log)
    return {figure.name: replay.live(town.parts.log, figure) for figure in all_figures()}


def profiles(town: Town, people: list[UUID]) -> list[Any]:
    """What each person's first fact says of them, as far as the keys open it."""
    facts = [next(iter(town.parts.ledger.repository.event_store.get(person))) for person in people]
    return town.parts.keys.unseal_many("volunteer.enrolled", [fact.profile for fact in facts])  # type: ignore[attr-defined]


def check_proofs(town: Town, people: list[UUID]) -> None:
    """Every fact of theirs is in the newest signed tree."""
    store = TreeStore(town.parts.log)
    newest = store.latest()
    assert newest is not None
    for person in people:
        for row in town.parts.log.stream(person):
            proof = store.inclusion_proof(row.position - 1, newest.size)
            verify_inclusion(row.leaf_hash, row.position - 1, newest.size, proof, newest.root)


def check_nothing_in_clear(place: Place) -> None:
    """No file holds a name, a reason or a number; nor does the archive once it is read as the columns it holds."""
    looked_at = 0
    for file, data in place.files():
        looked_at += len(data)
        for marker in MARKS:
            assert not any(form in data for form in forms(marker)), (file, marker)
    segments = list(place.folder.rglob("*.parquet"))
    assert segments
    for segment in segments:
        for row in duckdb.sql(f"SELECT * FROM '{segment}'").fetchall():
            assert not any(marker in str(row) for marker in MARKS), segment
    print(f"{looked_at:,} bytes looked through, {len(segments)} archive files read")


def write_archive(town: Town) -> None:
    settings: Settings = town.settings
    assert settings.archive is not None
    archive.write(town.parts.log, settings.archive, 64)


def test_two_hundred_forgotten_people_leave_their_hours_and_nothing_else(place: Place) -> None:
    chances("erasure")  # nothing is drawn here; printed as everywhere
    town, count = place.town, min(times(200), 999)
    town.wait(days=2)
    with everything_logged() as log:
        people = [enrol_with_an_hour(town, number) for number in range(count)]
        before, leaves = figures(town), [row.leaf_hash for row in town.parts.log.read()]
        assert sum(row["minutes"] for row in before["volunteer_hours"]) == 60 * count
        assert [each["name"] for each in profiles(town, people)] == [f"{MARK}{n}" for n in range(count)]
        key_store = backup_of_keys(place)
        erasures = [ask_and_decide(town, person) for person in people]
        for erase, person in zip(erasures, people, strict=True):
            town.parts.ledger.handle(erase, Caller(UUID(name("admin")), "admin"))
            erasure.carry_out(town.parts, person)
        erasure.resume(town.parts)
        town.sign()
        write_archive(town)
        assert profiles(town, people) == [None] * count
        written = log.getvalue()
    assert figures(town) == before
    assert [row.leaf_hash for row in town.parts.log.read(1, len(leaves))] == leaves
    assert audit.verify(town.parts.log).ok
    assert not any(replay.verify_against_live(town.parts.log).values())
    check_proofs(town, people)
    check_nothing_in_clear(place)
    for marker in MARKS:
        assert not any(form in written.encode() for form in forms(marker))
    with pytest.raises(SubjectErasedError):
        town.parts.keys.seal("volunteer.enrolled", people[0], {"name": "王"})
    if key_store is not None:
        check_a_restored_backup(place, key_store, people)


# --- a backup of the key store comes back ----------------------------------------------------------------------------


def backup_of_keys(place: Place) -> Path | None:
    """The key store as a file, while everybody is in it; on PostgreSQL none: a dump is restored like any other."""
    if not place.town.settings.on_sqlite:
        return None
    place.town.parts.keys._database.empty_wal()
    source = place.folder / "ledger.keys.db"
    return Path(shutil.copy(source, place.folder.parent / f"{place.folder.name}.backup"))


def check_a_restored_backup(place: Place, backup: Path, people: list[UUID]) -> None:
    """With an old backup of the keys in place nobody is shown at the edge, and resuming destroys every key again."""
    town = place.town
    for beside in place.folder.glob("ledger.keys.db*"):
        beside.unlink()
    shutil.copy(backup, place.folder / "ledger.keys.db")
    parts = open_parts(town.settings, clock=lambda: town.now)
    try:
        assert not parts.keys.is_erased(people[0]), "the backup really brought the keys back"
        assert erasure.resume(parts) == people
        assert all(parts.keys.is_erased(person) for person in people)
        sealed = [next(iter(parts.ledger.repository.event_store.get(person))).profile for person in people]  # type: ignore[attr-defined]
        assert parts.keys.unseal_many("volunteer.enrolled", sealed) == [None] * len(people)
        assert erasure.resume(parts) == []
    finally:
        parts.close()
    aside = rotation.rotate(town.settings.keys, town.settings.master_key)
    aside.unlink()  # from now on the backup itself opens no more
    check_nothing_in_clear(place)
