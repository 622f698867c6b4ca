"""The ledger against a plain model of it: whatever is asked of both, in whatever order, they agree.

`plain` is the model, `wishes` says what to ask for, `side_by_side` asks both and compares.
"""

import ast
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import Phase, event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger import commands as c
from ledger.application import Answer, Request
from ledger.rules import Caller
from tests.model import plain
from tests.model.plain import day_of
from tests.model.side_by_side import START, Outcome, SideBySide
from tests.model.wishes import (
    ADMIN,
    BOOK,
    CHECKER,
    CLERK,
    RESIDENTS,
    SEALED,
    VOLUNTEERS,
    Dice,
    Wishes,
    founding,
    name,
)

NUMBERS = st.binary(min_size=32, max_size=32)
"""The dice of one wish. What they mean depends on what is the case, but never which of them are drawn."""
STORY = st.lists(NUMBERS, min_size=4, max_size=8)
KEYS = st.sampled_from((None, None, None, "k1", "k2", "k3"))
DESKS = st.integers(0, 1)
PHASES = [phase for phase in Phase if phase is not Phase.explain]
"""Explaining traces every line of both ledgers: it takes minutes, and the shrunk commands say enough."""


class LedgerMachine(RuleBasedStateMachine):
    """Founds a county, then asks for anything, at two desks, one by one, in batches and at once."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.both = SideBySide(f"sqlite:///{self.directory.name}/ledger.db")

    @initialize(stories=st.lists(STORY, min_size=1, max_size=3))
    def found(self, stories: list[list[bytes]]) -> None:
        """A county, and some orders on their way, so that even a short run starts where something can go wrong."""
        self.both.ask_in_one_batch(founding(self.both.now))
        self.both.wait(days=2)
        for numbers in stories:
            self._ask(self._wishes(numbers[0]).order())
            self._bring_on(list(self.both.plain.orders)[-1:] or [name("none")], numbers, 95)

    # -- one command --

    @rule(numbers=NUMBERS, desk=DESKS, key=KEYS)
    def anything(self, numbers: bytes, desk: int, key: str | None) -> None:
        self._ask(self._wishes(numbers).anything(), desk, key)

    @rule(numbers=NUMBERS, desk=DESKS)
    def found_or_enrol(self, numbers: bytes, desk: int) -> None:
        wishes = self._wishes(numbers)
        self._ask(wishes.dice.pick((wishes.unit, wishes.team, wishes.enrolment))(), desk)

    @rule(numbers=NUMBERS, desk=DESKS, key=KEYS)
    def order(self, numbers: bytes, desk: int, key: str | None) -> None:
        self._ask(self._wishes(numbers).order(), desk, key)

    @rule(numbers=NUMBERS, seconds=st.sampled_from((1, 5, 6, 90)))
    def anything_while_the_clock_is_behind(self, numbers: bytes, seconds: int) -> None:
        self.both.wait(seconds=-seconds)
        self._ask(self._wishes(numbers).anything())
        self.both.wait(seconds=seconds)

    @rule(which=st.integers(0, 9), desk=DESKS)
    def the_same_again(self, which: int, desk: int) -> None:
        used = [request for request, _ in self.both.memory.keys.values()]
        if used:
            self._ask(used[which % len(used)], desk)

    # -- several commands --

    @rule(numbers=STORY, minutes=st.sampled_from((95, 61, 250, 400)))
    def bring_an_order_on(self, numbers: list[bytes], minutes: int) -> None:
        self._bring_on([self._wishes(numbers[0][::-1]).some_order()], numbers, minutes)

    @rule(numbers=STORY, minutes=st.sampled_from((61, 95, 250, 400)))
    def bring_orders_on_side_by_side(self, numbers: list[bytes], minutes: int) -> None:
        self._bring_on(list(self.both.plain.orders)[-2:], numbers, minutes)

    @rule(asked=NUMBERS, decided=NUMBERS, backfills=st.booleans())
    def correct_or_backfill(self, asked: bytes, decided: bytes, backfills: bool) -> None:
        wishes = self._wishes(asked)
        self._ask(wishes.backfill() if backfills else wishes.correction())
        self._ask(self._wishes(decided).decision())

    @rule(numbers=st.lists(NUMBERS, min_size=2, max_size=4), key=KEYS, desk=DESKS)
    def in_one_batch(self, numbers: list[bytes], key: str | None, desk: int) -> None:
        self._count(self.both.ask_in_one_batch(self._several(numbers, key), desk))

    @rule(numbers=st.lists(NUMBERS, min_size=2, max_size=3), key=KEYS)
    def at_once(self, numbers: list[bytes], key: str | None) -> None:
        self._count(self.both.ask_at_once(self._several(numbers, key)))

    # -- time --

    @rule(minutes=st.sampled_from((61, 7, 300, 1440, 3 * 1440, 12 * 1440)))
    def wait(self, minutes: int) -> None:
        self.both.wait(minutes=minutes)

    @rule(minutes=st.sampled_from((30, 0, -1, 200)))
    def wait_for_midnight(self, minutes: int) -> None:
        """Shanghai's midnight is 16:00 UTC."""
        midnight = self.both.now.replace(hour=16, minute=0, second=0, microsecond=0)
        if midnight <= self.both.now:
            midnight += timedelta(days=1)
        self.both.now = max(self.both.now, midnight + timedelta(minutes=minutes))

    # -- what always holds --

    @invariant()
    def figures_agree(self) -> None:
        if self.both.memory.size % 7 == 0:
            self.both.check()

    def teardown(self) -> None:
        try:
            self.both.check()
        finally:
            self.both.close()
            self.directory.cleanup()

    def _bring_on(self, order_ids: list[UUID], numbers: list[bytes], minutes: int) -> None:
        """The next step of each order in turn; before a service is recorded, time passes."""
        for order_id, each in zip(cycle(order_ids), numbers, strict=False):
            wishes = self._wishes(each)
            if wishes.ready_to_serve(order_id):
                self.both.wait(minutes=minutes)
                wishes.now = self.both.now
            self._ask(wishes.next_step(order_id))

    def _wishes(self, numbers: bytes) -> Wishes:
        return Wishes(self.both.plain, self.both.now, Dice(numbers))

    def _ask(self, request: Request, desk: int = 0, key: str | None = None) -> None:
        if key is not None:
            request = Request(request.command, request.caller, key)
        self._count([self.both.ask(request, desk)])

    def _several(self, numbers: list[bytes], key: str | None) -> list[Request]:
        """Wishes that all see the same moment; with a key the first is asked for twice."""
        wishes = [self._wishes(each).anything() for each in numbers]
        return (
            wishes if key is None else [Request(wishes[0].command, wishes[0].caller, key)] * 2 + wishes[1:2]
        )

    @staticmethod
    def _count(outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Answer):
                note(f"  # {' '.join(fact.TOPIC for fact in outcome.facts) or 'nothing to do'}")
            else:
                event(outcome.code)
                note(f"  # {outcome.code}")


def depth_of(both: SideBySide) -> int:
    """How far a run came: sessions count once, corrected ones and live ratings more."""
    sessions = [s for person in both.plain.people.values() for s in person["sessions"].values()]
    corrected = sum(1 for s in sessions if s["corrected_by"] or s["reversed"])
    rated = sum(1 for state in both.plain.order_states().values() if state == "rated")
    return len(sessions) + 2 * corrected + 2 * rated


TestLedgerAgainstThePlainModel = LedgerMachine.TestCase
TestLedgerAgainstThePlainModel.settings = settings(
    settings.get_profile("default"), stateful_step_count=30, phases=PHASES
)


@pytest.mark.slow
class TestLedgerAgainstThePlainModelAtLength(LedgerMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(settings.get_profile("ci"), stateful_step_count=50, phases=PHASES)


# -- a path that must be walked to its end, whatever Hypothesis happens to try --


@pytest.fixture
def both(sqlite_url: str) -> Iterator[SideBySide]:
    made = SideBySide(sqlite_url)
    for outcome in made.ask_in_one_batch(founding(START)):
        assert isinstance(outcome, Answer), outcome
    yield made
    made.check()
    made.close()


def done(both: SideBySide, command: c.Command, who: Caller, **how: Any) -> Answer:
    outcome = both.ask(Request(command, who, **how))
    assert isinstance(outcome, Answer), outcome
    return outcome


def refused(both: SideBySide, command: c.Command, who: Caller) -> str:
    outcome = both.ask(Request(command, who))
    assert not isinstance(outcome, Answer)
    return outcome.code


def aimed(both: SideBySide, what: str, *about: Any) -> Request:
    """The first choice of every die."""
    request: Request = getattr(Wishes(both.plain, both.now, Dice()), what)(*about)
    return request


def served(both: SideBySide, minutes: int = 95) -> c.CompleteOrder:
    """An order placed, dispatched, accepted by two and completed; the clock moves."""
    for what in ("order", "sending", "answer", "answer"):
        about = () if what == "order" else (list(both.plain.orders)[-1],)
        assert isinstance(both.ask(aimed(both, what, *about)), Answer)
    both.wait(minutes=minutes)
    completion = aimed(both, "completion", list(both.plain.orders)[-1])
    assert isinstance(both.ask(completion), Answer)
    assert isinstance(completion.command, c.CompleteOrder)
    return completion.command


def amendment(service: c.Service, number: int, **times: Any) -> c.RequestCorrection:
    return c.RequestCorrection(
        volunteer_id=service.volunteer_id,
        request_id=name("amendment", number),
        session_id=service.session_id,
        kind="amend" if times else "reverse",
        reason=SEALED,
        **times,
    )


def approved(both: SideBySide, command: c.RequestCorrection) -> Answer:
    done(both, command, Caller(command.volunteer_id, "volunteer"))
    decision = c.DecideCorrection(
        volunteer_id=command.volunteer_id, request_id=command.request_id, verdict="approved"
    )
    return done(both, decision, Caller(CHECKER, "organiser"))


def test_the_first_choices_bring_an_order_to_its_rating(both: SideBySide) -> None:
    for _ in range(12):
        order_id = list(both.plain.orders)[-1] if both.plain.orders else name("none")
        if both.plain.order_states().get(order_id) == "accepted":
            both.wait(minutes=95)
        assert isinstance(both.ask(aimed(both, "next_step", order_id)), Answer)
        if "rated" in both.plain.order_states().values():
            break
    assert depth_of(both) == 4
    assert isinstance(both.ask(aimed(both, "correction")), Answer)
    assert isinstance(both.ask(aimed(both, "decision")), Answer)
    assert depth_of(both) == 6


def test_a_session_is_amended_amended_again_reversed_and_reinstated(both: SideBySide) -> None:
    service, other = served(both).services
    since, until = service.started_at, service.ended_at
    early = {"started_at": since - timedelta(hours=3), "ended_at": since, "break_minutes": 10}
    plain_times = {"started_at": since, "ended_at": until - timedelta(minutes=5), "break_minutes": None}
    key, seen = (service.volunteer_id, service.session_id), both.plain.sessions
    assert seen()[key][3] == "confirmed"
    approved(both, amendment(service, 1, **early))
    assert seen()[key][3] == "backfilled"
    approved(both, amendment(service, 2, **plain_times))
    assert seen()[key] == (since, until - timedelta(minutes=5), 0, "confirmed")
    approved(both, amendment(service, 3))
    assert key not in seen()
    assert (
        refused(both, amendment(service, 4), Caller(service.volunteer_id, "volunteer")) == "NOT_ALLOWED_NOW"
    )
    approved(both, amendment(service, 5, **plain_times))
    assert seen()[key] == (since, until - timedelta(minutes=5), 0, "confirmed")
    assert (other.volunteer_id, other.session_id) in seen()


def test_a_session_over_midnight_under_two_rule_books_keeps_the_book_of_its_first_day(
    both: SideBySide,
) -> None:
    strict = BOOK.model_copy(update={"day_minutes_free": 60})
    tomorrow = day_of(both.now) + timedelta(days=1)
    done(both, c.PublishRuleBook(version=2, effective_on=tomorrow, book=strict), ADMIN)
    midnight = both.now.replace(hour=16)
    both.now = midnight + timedelta(hours=3)
    times = {"started_at": midnight - timedelta(minutes=90), "ended_at": midnight + timedelta(minutes=61)}
    command = c.RequestBackfill(
        volunteer_id=VOLUNTEERS[0],
        request_id=name("request", 1),
        session_id=name("session", 1),
        unit_id=next(iter(both.plain.units)),
        activity_kind="health",
        reason=SEALED,
        **times,  # type: ignore[arg-type]
    )
    himself = Caller(VOLUNTEERS[0], "volunteer")
    assert refused(both, command, himself) == "DAY_NEEDS_APPROVAL"
    shorter = command.model_copy(update={"ended_at": midnight + timedelta(minutes=60)})
    done(both, shorter, himself)
    decide = c.DecideBackfill(volunteer_id=VOLUNTEERS[0], request_id=name("request", 1), verdict="approved")
    assert refused(both, decide, Caller(VOLUNTEERS[0], "organiser")) == "SELF_APPROVAL"
    done(both, decide, Caller(CLERK, "organiser"))
    assert [e[-1] for e in sorted(both.plain.entries())] == [1, 2]
    service = c.Service(volunteer_id=VOLUNTEERS[0], session_id=name("session", 1), **times)  # type: ignore[arg-type]
    approved(both, amendment(service, 1, **times))
    assert sorted((e[1], e[-1], m) for e, m in both.plain.entries().items()) == [
        (tomorrow - timedelta(days=1), 1, 90),
        (tomorrow, 1, 61),
    ]


def test_sessions_may_touch_and_a_correction_does_not_count_against_itself(both: SideBySide) -> None:
    service = served(both, minutes=185).services[0]
    since, until = service.started_at, service.ended_at
    both.wait(hours=1)
    claim = claimed(both, service.volunteer_id, name("session", 1))
    himself = Caller(service.volunteer_id, "volunteer")
    for start, end, code in (
        (until - timedelta(seconds=1), until + timedelta(minutes=9), "OVERLAP"),
        (since - timedelta(minutes=9), since + timedelta(seconds=1), "OVERLAP"),
    ):
        assert refused(both, claim.model_copy(update={"started_at": start, "ended_at": end}), himself) == code
    touching = {"started_at": until, "ended_at": until + timedelta(minutes=9)}
    done(both, claim.model_copy(update=touching), himself)
    longer = {"started_at": since - timedelta(minutes=40), "ended_at": until, "break_minutes": 0}
    approved(both, amendment(service, 1, **longer))
    assert sum(both.plain.entries().values()) > BOOK.day_minutes_free


def test_an_offer_ends_at_the_very_moment_it_expires(both: SideBySide) -> None:
    for what in ("order", "sending"):
        about = () if what == "order" else (list(both.plain.orders)[-1],)
        assert isinstance(both.ask(aimed(both, what, *about)), Answer)
    (order_id,) = both.plain.orders
    first, second = both.plain.orders[order_id]["asked"]
    both.wait(hours=BOOK.offer_hours, seconds=-1)
    done(both, c.AcceptOrder(order_id=order_id, volunteer_id=first), Caller(first, "volunteer"))
    expire = c.ExpireOffer(order_id=order_id, volunteer_id=second)
    assert refused(both, expire, ADMIN) == "NOT_OFFERED"
    both.wait(seconds=1)
    accept = c.AcceptOrder(order_id=order_id, volunteer_id=second)
    assert refused(both, accept, Caller(second, "volunteer")) == "NOT_OFFERED"
    done(both, expire, ADMIN)


def test_a_clock_a_little_behind_is_waited_for_and_one_far_behind_refused(both: SideBySide) -> None:
    both.wait(seconds=-5)
    answer = both.ask(aimed(both, "order"))
    assert isinstance(answer, Answer)
    assert answer.facts[0].recorded_at == START
    both.wait(seconds=-1)
    assert refused(both, aimed(both, "order").command, ADMIN) == "CLOCK_BEHIND"


def test_merged_teams_keep_each_member_once(both: SideBySide) -> None:
    one, other = (t for t in both.plain.teams if both.plain.teams[t]["members"])
    done(both, c.LeaveTeam(team_id=other, volunteer_id=VOLUNTEERS[1]), ADMIN)
    done(both, c.DissolveTeam(team_id=one, reason="merged", merged_into_id=other), ADMIN)
    joined = [
        fact["volunteer_id"]
        for topic, team, fact in both.facts()
        if topic == "team.member_joined" and team == other
    ]
    assert len(joined) == 4
    assert both.plain.rosters()[other] == {*VOLUNTEERS[:3]}
    join = c.JoinTeam(team_id=one, volunteer_id=VOLUNTEERS[0])
    assert refused(both, join, ADMIN) == "NOT_ALLOWED_NOW"


def test_a_rating_is_withdrawn_and_given_again(both: SideBySide) -> None:
    order_id = served(both).order_id
    rater = Caller(both.plain.orders[order_id]["requester"], "resident")
    for number in (1, 2):
        rating_id = name("stars", number)
        done(both, c.RateOrder(order_id=order_id, rating_id=rating_id, score=number), rater)
        again = c.RateOrder(order_id=order_id, rating_id=name("stars", 9), score=5)
        assert refused(both, again, rater) == "ALREADY_RATED"
        assert set(both.plain.ratings().values()) == {(number, 1)}
        done(both, c.WithdrawRating(order_id=order_id, rating_id=rating_id), rater)
    assert both.plain.order_states()[order_id] == "completed"


def test_an_order_reassigned_is_forgotten_by_those_who_had_accepted(both: SideBySide) -> None:
    for what in ("order", "sending", "answer"):
        about = () if what == "order" else (list(both.plain.orders)[-1],)
        assert isinstance(both.ask(aimed(both, what, *about)), Answer)
    (order_id,) = both.plain.orders
    accepted = [v for v, a in both.plain.orders[order_id]["asked"].items() if a["answer"] == "accepted"]
    other = next(
        t
        for t in both.plain.teams
        if both.plain.teams[t]["members"] and t != both.plain.orders[order_id]["team"]
    )
    newcomer = next(v for v in VOLUNTEERS[:3] if v not in accepted)
    reassign = c.ReassignOrder(order_id=order_id, team_id=other, volunteer_ids=(newcomer,), reason="too_busy")
    done(both, reassign, ADMIN)
    assert both.plain.order_states()[order_id] == "dispatched"
    late = c.AcceptOrder(order_id=order_id, volunteer_id=accepted[0])
    assert refused(both, late, Caller(accepted[0], "volunteer")) == "NOT_OFFERED"


def test_a_retry_gets_the_first_answer_and_another_wish_under_its_key_none(both: SideBySide) -> None:
    first = Request(aimed(both, "order").command, Caller(RESIDENTS[0], "resident"), "k1")
    answers = both.ask_at_once([first, first, first])
    assert sorted(a.replayed for a in answers if isinstance(a, Answer)) == [False, True, True]
    both.wait(days=3)
    other = Request(aimed(both, "order").command, first.caller, "k1")
    assert [getattr(o, "code", None) for o in both.ask_in_one_batch([first, other])] == [None, "KEY_REUSED"]


def claimed(both: SideBySide, volunteer_id: UUID, session_id: UUID) -> c.RequestBackfill:
    """An hour of the day before, asked for as a back-fill."""
    return c.RequestBackfill(
        volunteer_id=volunteer_id,
        request_id=name("claim", volunteer_id),
        session_id=session_id,
        unit_id=next(iter(both.plain.units)),
        activity_kind="health",
        started_at=both.now - timedelta(days=1),
        ended_at=both.now - timedelta(hours=23),
        reason=SEALED,
    )


def test_a_session_id_waiting_in_a_backfill_is_not_taken_by_an_order(both: SideBySide) -> None:
    """Else its approval would record one session twice, and post entries under ids that exist."""
    both.wait(days=2)
    for what in ("order", "sending", "answer"):
        about = () if what == "order" else (list(both.plain.orders)[-1],)
        assert isinstance(both.ask(aimed(both, what, *about)), Answer)
    (order_id,) = both.plain.orders
    volunteer_id = next(v for v, a in both.plain.orders[order_id]["asked"].items() if a["accepted"])
    done(both, claimed(both, volunteer_id, name("session", 1)), Caller(CLERK, "organiser"))
    times = {"started_at": both.now, "ended_at": both.now + timedelta(hours=1)}
    both.wait(hours=2)
    service = c.Service(volunteer_id=volunteer_id, session_id=name("session", 1), **times)  # type: ignore[arg-type]
    completion = c.CompleteOrder(order_id=order_id, services=(service,))
    assert refused(both, completion, ADMIN) == "ALREADY_EXISTS"


def test_sessions_of_two_people_have_entries_of_their_own_even_under_one_id(both: SideBySide) -> None:
    """An entry's id names one entry in the whole ledger: reversals, and those who explain a figure, rely on it."""
    both.wait(days=2)
    for volunteer_id in VOLUNTEERS[:2]:
        claim = claimed(both, volunteer_id, name("session", 1))
        done(both, claim, Caller(CLERK, "organiser"))
        decide = c.DecideBackfill(volunteer_id=volunteer_id, request_id=claim.request_id, verdict="approved")
        both.ask(Request(decide, Caller(CHECKER, "organiser")))
    both.check()


def test_the_plain_model_shares_no_code_with_the_ledger() -> None:
    imported: Counter[str] = Counter()
    for node in ast.walk(ast.parse(Path(plain.__file__).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported[(node.module or "").split(".")[0]] += 1
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "importlib", "exec", "eval")
    assert set(imported) == {"collections", "datetime", "typing", "uuid", "zoneinfo"}
