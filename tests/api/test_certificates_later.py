"""A certificate once printed stays what it is, whatever happens later (T37)."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.events import CertificateIssued
from ledger.rules.volunteers import Volunteer
from tests.api.conftest import Copier, Town, name, opened, sqlite_settings
from tests.api.test_certificates import checked

WANG = name("wang")
Wish = Callable[[Town, int], None]
"""Something that may happen later: whether it is allowed does not matter here."""


def asked(town: Town, path: str, who: str, body: dict[str, Any]) -> bool:
    """Ask for it; whether it was done. Nothing brings the ledger down."""
    response = town.post(path, who, body)
    assert response.status_code < 500, response.text
    return bool(response.status_code == 200)


def corrected(town: Town, number: int, **how: Any) -> None:
    body = {
        "request_id": name("later", number),
        "session_id": name("session", "order", "wang"),
        "reason": "误记",
    }
    path = f"/volunteers/{WANG}/corrections"
    if asked(town, path, "wang", body | how):
        asked(town, f"{path}/{name('later', number)}/decide", "checker", {"verdict": "approved"})


def serve(town: Town, number: int) -> None:
    account = town.parts.ledger.state(UUID(WANG))
    if isinstance(account, Volunteer) and not account.withdrawn:
        town.served(f"order {number}")


def amend(town: Town, number: int) -> None:
    corrected(town, number, kind="amend", started_at=town.at(hours=-2), ended_at=town.at(hours=-1))


def reverse(town: Town, number: int) -> None:
    corrected(town, number, kind="reverse")


def replace(town: Town, _: int) -> None:
    body = {"volunteer_id": WANG, "first_on": "2026-03-01", "last_on": town.today, "replaces": town.number}
    asked(town, "/certificates", "organiser", body)


def revoke(town: Town, _: int) -> None:
    asked(town, f"/certificates/{town.number}/revoke", "checker", {"reason": "issued_by_mistake"})


def rename(town: Town, number: int) -> None:
    asked(town, f"/units/{town.station}/rename", "organiser", {"name": f"第{number}新名站"})
    asked(town, f"/volunteers/{WANG}/profile", "wang", {"profile": {"name": "王改名"}})


def withdraw(town: Town, _: int) -> None:
    asked(town, f"/volunteers/{WANG}/withdraw", "wang", {})


def retire(town: Town, _: int) -> None:
    (key,) = town.seen("/issuer-keys", "admin")["issuer_keys"]
    asked(town, f"/issuer-keys/{key['issuer_key_id']}/retire", "admin", {"reason": "rotated"})


def sign(town: Town, _: int) -> None:
    town.sign()


def print_again(town: Town, _: int) -> None:
    asked(town, f"/certificates/{town.number}/print", "wang", {})


WISHES: tuple[Wish, ...] = (
    serve, amend, reverse, replace, revoke, rename, withdraw, retire, sign, print_again,
)  # fmt: skip


@dataclass(frozen=True)
class Printed:
    """A town in which a certificate was printed: its files, accounts and time, the number and the document."""

    folder: Path
    keys: dict[str, str] = field(repr=False)
    now: datetime
    number: str
    pdf: bytes = field(repr=False)


@pytest.fixture(scope="module")
def printed(town_in: Copier, tmp_path_factory: pytest.TempPathFactory) -> Printed:
    folder = tmp_path_factory.mktemp("printed")
    for town in town_in(folder):
        town.enrol()
        town.served()
        town.issuer()
        number = town.certificate()
        pdf = town.printed(number)
        made = Printed(folder, dict(town.keys), town.now, number, pdf)
    return made


@settings(max_examples=4)
@given(wishes=st.lists(st.sampled_from(WISHES), min_size=1, max_size=6))
def test_what_was_printed_holds_offline_and_is_made_again_after_any_later_history(
    printed: Printed, tmp_path_factory: pytest.TempPathFactory, wishes: list[Wish]
) -> None:
    copy = tmp_path_factory.mktemp("later") / uuid4().hex
    shutil.copytree(printed.folder, copy)
    for town in opened(sqlite_settings(copy)):
        town.keys |= printed.keys
        town.number, town.now = printed.number, printed.now
        before = town.parts.log.stream(
            UUID(town.seen(f"/certificates/{town.number}", "wang")["certificate_id"])
        )[0]
        for number, wish in enumerate(wishes):
            wish(town, number)
        pdf = town.get(f"/certificates/{town.number}.pdf", "wang").content
        same = pdf == printed.pdf
        assert same, "made again byte for byte"
        found = checked(pdf)
        assert (found.claim.minutes, found.claim.number) == (140, printed.number)
        assert list(town.parts.log.read(before.position, before.position)) == [before]
        assert before.topic == CertificateIssued.TOPIC
