"""Fills a demonstration ledger through `handle_many`, on the story's clock. What was begun is carried on, never doubled."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

from api import parts as wiring
from api.demo.certificate import certify, heavy, printed
from api.demo.county import County
from api.demo.fraud import KINDS, attempt_all
from api.demo.story import Step, Story
from api.parts import Parts
from api.settings import Settings
from ledger.application import Ledger, Request
from ledger.codec import canonical_json
from ledger.errors import LedgerError, LedgerMissingError, Refusal
from ledger.log import LedgerLog

__all__ = ["KINDS", "Plan", "Told", "fill", "is_complete", "open_demo", "sample_accounts"]

BATCH = 256
Progress = Callable[[str, int, int], None]


class NotADemoError(LedgerError):
    code = "NOT_A_DEMO"
    zh = "{database} 是正式账本，演示绝不改动它。请用 --database 指定另一个位置。"
    en = (
        "{database} is a real ledger; a demonstration never touches it. Choose another place with --database."
    )


class OtherDemoError(LedgerError):
    code = "OTHER_DEMO"
    zh = "{database} 中是另一组参数的、尚未完成的演示。请删除它，或用 --database 另选位置。"
    en = "{database} holds an unfinished demonstration of other parameters. Remove it, or choose another --database."


@dataclass(frozen=True)
class Plan:
    """Which demonstration: the same numbers give the same facts, apart from sealed bytes."""

    volunteers: int = 2000
    months: int = 6
    seed: int = 1

    @property
    def ledger_id(self) -> UUID:
        return uuid5(NAMESPACE_URL, f"wenming-demo|{self.volunteers}|{self.months}|{self.seed}")


@dataclass
class Told:
    """What came of the story. ``attempts``: per fraud kind, how often each code answered (OK: it passed)."""

    commands: int = 0
    facts: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Refusals of honest requests, by code: there should be none."""
    attempts: dict[str, Counter[str]] = field(default_factory=dict)


class StoryClock:
    """The ledger's clock while the story is told; afterwards the real one takes over."""

    def __init__(self, start: datetime) -> None:
        self.now = start

    def __call__(self) -> datetime:
        return self.now


def open_demo(settings: Settings, plan: Plan) -> Parts:
    """The demonstration at this place, made if there is nothing; anything but a demonstration is refused."""
    try:
        log = LedgerLog.open(settings.database, busy_seconds=settings.busy_seconds)
    except LedgerMissingError:
        begins = Story(County(plan.ledger_id, 1, 0), 0, plan.months, _unsealed).begins
        wiring.create(settings, "demo", ledger_id=plan.ledger_id, created_at=begins)
    else:
        kind = log.identity.kind
        log.close()
        if kind != "demo":
            raise NotADemoError(database=settings.shown()["database"])
    return wiring.open_parts(settings)


def is_complete(parts: Parts) -> bool:
    """Sample accounts are made last: a demonstration that has them is whole."""
    administrator = County(parts.log.identity.ledger_id, 0, 0).admin.person_id
    return any(account.person_id == administrator for account in parts.accounts.listed())


def fill(parts: Parts, plan: Plan, progress: Progress | None = None) -> Told:
    """Tell the whole story to the ledger; requests that were made before are answered, not repeated."""
    if parts.log.identity.ledger_id != plan.ledger_id:
        raise OtherDemoError(database=parts.settings.shown()["database"])
    county = County(plan.ledger_id, plan.volunteers, plan.seed)
    parts.keys.ensure_keys(person.person_id for person in county.people)
    story = Story(county, plan.seed, plan.months, parts.keys.seal)
    _keep_numbers(parts, county, story)
    clock = StoryClock(story.begins)
    ledger = Ledger(parts.log, digest=parts.keys.request_digest, clock=clock)
    reached = parts.log.head().recorded_at
    told, ticks, done = Told(), _keyed(story), 0
    whole = sum(len(tick) for tick in ticks)
    for tick in ticks:
        clock.now = max(tick[0][1].at, reached)
        for first in range(0, len(tick), BATCH):
            batch = tick[first : first + BATCH]
            _ask(ledger, [asked for asked in batch if _is_due(asked[1], reached)], told)
            done += len(batch)
            if progress:
                progress("telling the story", done, whole)
    told.facts = parts.log.head().size
    return told


def _keyed(story: Story) -> list[list[tuple[str, Step]]]:
    """Each tick's steps with the keys that make them happen once, however often the story is told."""
    numbers = itertools.count()
    return [[(f"demo-{next(numbers)}", step) for step in tick] for tick in story.told(attempt_all)]


def _is_due(step: Step, reached: datetime) -> bool:
    """Not an attempt to cheat that was refused before: it left nothing, and is not made again later."""
    return step.label is None or step.at >= reached


def _keep_numbers(parts: Parts, county: County, story: Story) -> None:
    profiles = [(person.person_id, story.profile(person)) for person in county.people]
    parts.keys.claim_id_numbers((person, profile["id_number"] or "") for person, profile in profiles)
    parts.keys.set_phones((person, profile["phone"] or "") for person, profile in profiles)


def _ask(ledger: Ledger, asked: list[tuple[str, Step]], told: Told) -> None:
    requests = [Request(step.command, step.caller, key=key, body=_body(step)) for key, step in asked]
    for (_, step), answer in zip(asked, ledger.handle_many(requests), strict=True):
        told.commands += 1
        code = answer.code if isinstance(answer, Refusal) else "OK"
        if step.label is not None:
            told.attempts.setdefault(step.label, Counter())[code] += 1
        elif code != "OK":
            told.refused[code] += 1


SEALED_FIELDS = {"profile", "need", "reason", "explanation", "comment"}


def _body(step: Step) -> bytes:
    """What a step asks for, without the sealed bytes, which differ each time they are made."""
    return canonical_json(
        {
            "type": type(step.command).__name__,
            "command": step.command.model_dump(mode="json", exclude=SEALED_FIELDS),
        }
    )


def sample_accounts(parts: Parts, plan: Plan) -> Iterable[tuple[str, str]]:
    """One key of each kind to try the demonstration with: (what it is, the key)."""
    county = County(plan.ledger_id, plan.volunteers, plan.seed)
    place = next((p.squad for p in county.people if p.squad.institute), county.stations[0])
    now = datetime.now(UTC)
    for role in ("admin", "auditor", "committee"):
        yield role, parts.accounts.add(county.id_of("staff", role), role, now=now)
    for role in ("organiser", "dispatcher", "recorder"):
        who = county.staff(place, role)  # type: ignore[arg-type]
        yield (
            f"{role} for {place.name} and its institute",
            parts.accounts.add(who.person_id, role, who.unit_id),
        )
    person = heavy(county)
    yield (
        f"volunteer gg-{person.number + 1:06} {person.person_id}",
        parts.accounts.add(person.person_id, "volunteer"),
    )
    yield "resident", parts.accounts.add(county.resident(0), "resident")


def certify_sample(parts: Parts, plan: Plan) -> str | None:
    """Issue one certificate to look at, to a volunteer of the sample keys; its number. Again changes nothing."""
    county = County(plan.ledger_id, plan.volunteers, plan.seed)
    return certify(parts, county, Story(county, plan.seed, plan.months, _unsealed))


def print_sample(parts: Parts, plan: Plan, number: str, file: Path) -> bool:
    """Print it into a file; False while no signed checkpoint covers it."""
    county = County(plan.ledger_id, plan.volunteers, plan.seed)
    return printed(parts, number, heavy(county).person_id, file)


def _unsealed(_topic: str, _person: UUID, _fields: dict[str, str | None]) -> str:
    raise AssertionError("nothing is sealed before there is a ledger")
