"""Figures fed from the topic equal those fed from the log, however the work is split, stopped and begun again."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from ledger import events
from ledger.brokers import Brokers
from ledger.brokers import Topic as Feed
from ledger.cloudevents import message_of
from ledger.codec import EVENTS_BY_TOPIC, canonical_json
from ledger.errors import ExpectedError, TopicMissingError
from ledger.groupcommit import Row as Fact
from ledger.log import LedgerLog
from ledger.merkle import leaf_hash
from ledger.relay import Relay
from projections import hours, orders, replay, rosters, units, worker
from projections.figures import all_figures
from projections.follower import MovedMeanwhileError
from projections.hours import volunteer_hours
from projections.moment import Moment
from projections.worker import Batch, MessageInTheWayError, TopicCutError
from projections.worker_store import (
    NotAStoreError,
    OtherFiguresError,
    OtherStoreError,
    StoreMissingError,
    WorkerStore,
    parts_of,
    stands_at,
)
from tests.cli import running, wenming
from tests.conftest import costly
from tests.county import LEDGER_ID, START, County, sample_steps
from tests.workers import OTHER_LEDGER, Tables, fill, followed, new_topic, send, sender, tables

pytestmark = pytest.mark.slow  # it needs a broker, and a minute

Messages = dict[int, list[tuple[int, bytes | None]]]
"""Of each partition, by offset and in order."""


@dataclass
class Topic:
    """A topic that tells a county's history, and that county."""

    address: str
    name: str
    log: LedgerLog
    expected: Tables
    messages: Messages
    """What a reader of committed messages sees."""
    ends: dict[int, int]

    @property
    def brokers(self) -> Brokers:
        return Brokers(self.address, self.name)

    @property
    def feed(self) -> Feed:
        return self.brokers.events_topic()

    @property
    def head(self) -> int:
        return self.log.head().size


@pytest.fixture(scope="module")
def topic(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topic]:
    county = County(f"sqlite:///{tmp_path_factory.mktemp('workers') / 'ledger.db'}")
    county.tell(sample_steps())
    name = new_topic(kafka)
    fill(kafka, name, list(county.log.read(1, county.log.head().size)), size=20)
    messages, ends = _read(kafka, name)
    yield Topic(kafka, name, county.log, followed(county.log), messages, ends)
    county.close()


def _read(address: str, name: str) -> tuple[Messages, dict[int, int]]:
    options = {"isolation_level": "read_committed", "auto_offset_reset": "earliest"}
    with closing(KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, **options)) as consumer:
        there = [TopicPartition(name, number) for number in sorted(consumer.partitions_for_topic(name))]
        consumer.assign(there)
        ends = consumer.end_offsets(there)
        found: Messages = {one.partition: [] for one in there}
        while any(consumer.position(one) < ends[one] for one in there):
            for one, records in consumer.poll(timeout_ms=500).items():
                found[one.partition] += [(record.offset, record.value) for record in records]
    return found, {one.partition: end for one, end in ends.items()}


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'figures.db'}"


@contextmanager
def made(url: str, feed: Feed) -> Iterator[WorkerStore]:
    with closing(WorkerStore.make(url, LEDGER_ID, feed)) as store:
        yield store


def work_once(store: WorkerStore, topic: Topic) -> None:
    worker.work(store, topic.brokers, threading.Event(), once=True)


ONE, THREE = Feed("t", UUID(int=1), 1), Feed("t", UUID(int=1), 3)
"""Topics of messages that are handed over without Kafka."""


# --- equal to the log ------------------------------------------------------------------------------------------------


def test_figures_from_the_topic_equal_those_from_the_log(topic: Topic, database_url: str) -> None:
    with made(database_url, topic.feed) as store:
        work_once(store, topic)
        assert tables(store) == topic.expected
        places = store.places().values()
        assert stands_at(places) == (topic.head, topic.head)
        assert sum(place.others for place in places) > 0
        assert {lag.offsets for lag in worker.status(store, topic.brokers)} == {0}
        work_once(store, topic)
        assert tables(store) == topic.expected
        with store.moment() as moment:
            assert (moment.position, moment.exact) == (topic.head, True)


def test_the_ledger_compares_a_store_with_itself(topic: Topic, store_url: str) -> None:
    """`wenming verify --against`: equal, then one minute changed, then one partition that is behind."""
    against = ("verify", "--against", store_url, "--json", "--database", str(topic.log.url))
    with made(store_url, topic.feed) as store:
        work_once(store, topic)
        equal = wenming(*against)
        assert (equal.code, orjson.loads(equal.out)["ok"]) == (0, True), equal.err
        _alter(store, f"UPDATE {parts_of(volunteer_hours)} SET minutes = minutes + 1 WHERE rowid = 1")
        changed = wenming(*against)
        totals = {(one["figure"], one["total"]) for one in orjson.loads(changed.out)["differences"]}
        assert changed.code == 1
        assert ("volunteer_hours", "minutes") in totals
        fullest = max(store.places().values(), key=lambda place: place.facts)
        _alter(store, f"UPDATE worker_partitions SET facts = facts - 1 WHERE partition = {fullest.partition}")
        behind = orjson.loads(wenming(*against).out)
        assert [one["code"] for one in behind["findings"]] == ["FACTS_MISSING"]


def _alter(store: WorkerStore, statement: str) -> None:
    with store.engine.connect() as plain, (connection := plain.execution_options(writes=True)).begin():
        connection.exec_driver_sql(statement)


def test_a_ledger_reaches_the_store_through_its_relay(topic: Topic, store_url: str) -> None:
    brokers = Brokers(topic.address, f"events.{uuid4().hex}", partitions=4, replication=1)
    brokers.create_topics(LEDGER_ID)
    Relay(topic.log, brokers).once()
    with made(store_url, brokers.events_topic()) as store:
        worker.work(store, brokers, threading.Event(), once=True)
        assert tables(store) == topic.expected


def test_the_questions_are_answered_from_the_store_as_from_the_ledger(
    topic: Topic, database_url: str
) -> None:
    volunteers = [row[0] for row in topic.expected["volunteers"]]
    teams = [row[0] for row in topic.expected["teams"]]
    asked: list[Callable[[Moment], object]] = [
        *(lambda m, v=v: hours.hours_of(m, v) for v in volunteers),
        *(lambda m, v=v: hours.months_of(m, v) for v in volunteers),
        *(lambda m, t=t: rosters.members(m, t) for t in teams),
        lambda m: orders.funnel(m, orders.Which()),
        lambda m: [row["stage"] for row in orders.board(m, orders.Which(), START)],
        units.holders,
    ]
    with made(database_url, topic.feed) as store:
        work_once(store, topic)
        for question in asked:
            with replay.at(topic.log, all_figures()) as live, store.moment() as moment:
                assert question(moment) == question(live)


def test_a_lookup_by_key_uses_an_index(topic: Topic, sqlite_url: str, postgres_url: str) -> None:
    query = f"SELECT minutes FROM {volunteer_hours.table_name} WHERE volunteer_id = 'nobody'"
    with made(sqlite_url, topic.feed) as store, store.engine.connect() as connection:
        plan = " ".join(str(row) for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}")))
        assert f"SEARCH {parts_of(volunteer_hours)} USING" in plan
        assert f"SCAN {parts_of(volunteer_hours)}" not in plan
    with made(postgres_url, topic.feed) as store, store.engine.connect() as connection:
        connection.execute(text("SET enable_seqscan = off"))  # an empty table is read through otherwise
        plan = " ".join(str(row) for row in connection.execute(text(f"EXPLAIN {query}")))
        assert "Index Cond: (volunteer_id" in plan


# --- however it is split ---------------------------------------------------------------------------------------------


@dataclass
class Hand:
    """A worker without Kafka: it holds some partitions, at the places it last knew."""

    store: WorkerStore
    batch: Batch

    @classmethod
    def of(cls, store: WorkerStore, partitions: list[int]) -> "Hand":
        places = store.places()
        return cls(store, Batch(LEDGER_ID, "t", {number: places[number] for number in partitions}))

    def take(self, topic: Topic, count: int) -> None:
        """Up to so many messages of each partition it holds, read and not written yet."""
        for number, place in self.batch.before.items():
            left = [one for one in topic.messages[number] if one[0] >= place.next_offset]
            some = left[:count]
            behind = some[-1][0] + 1 if len(some) < len(left) else topic.ends[number]
            self.batch.take(number, some, behind if some or not left else place.next_offset)

    def write(self) -> bool:
        """Whether it was first."""
        try:
            worker.take(self.store, self.batch)
        except MovedMeanwhileError:
            return False
        return True


@costly
@given(
    steps=st.lists(
        st.tuples(
            st.sets(st.integers(0, 2), min_size=1),
            st.integers(1, 40),
            st.sampled_from(["", "dies", "sleeps"]),
        ),
        max_size=12,
    )
)
def test_any_split_among_workers_with_restarts_and_sleepers_gives_the_same_tables(
    topic: Topic, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[set[int], int, str]]
) -> None:
    """Partitions may be held by several at once; only the compare-and-set decides who was first."""
    url = f"sqlite:///{tmp_path_factory.mktemp('split') / 'figures.db'}"
    with made(url, THREE) as store:
        asleep: list[Hand] = []
        for partitions, count, fate in steps:
            hand = Hand.of(store, sorted(partitions))
            hand.take(topic, count)
            if fate == "sleeps":
                asleep.append(hand)
            elif fate != "dies":
                hand.write()
        for hand in asleep:
            before = store.places()
            was_first = all(before[n] == place for n, place in hand.batch.before.items())
            assert hand.write() == was_first
        last = Hand.of(store, [0, 1, 2])
        last.take(topic, 10_000)
        assert last.write()
        assert stands_at(store.places().values()) == (topic.head, topic.head)
        assert tables(store) == topic.expected


def test_who_dies_before_the_commit_leaves_nothing(topic: Topic, database_url: str) -> None:
    with made(database_url, THREE) as store:
        hand = Hand.of(store, [1, 2])
        hand.take(topic, 1000)

        def dies() -> Iterator[Any]:
            yield (
                volunteer_hours,
                worker.pa.table(
                    {"volunteer_id": ["a"], "source_class": ["machine"], "minutes": [1], "services": [1]}
                ),
            )
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.write(hand.batch.moves(1), 1, dies())
        assert set(stands_at(store.places().values())) == {0}
        assert not any(tables(store).values())


def test_a_batch_is_written_whole_or_not_at_all(topic: Topic, database_url: str) -> None:
    """One of its partitions was taken further by another meanwhile."""
    with made(database_url, THREE) as store:
        slow, fast = Hand.of(store, [0, 1, 2]), Hand.of(store, [2])
        slow.take(topic, 1000)
        fast.take(topic, 3)
        assert fast.write()
        before = tables(store), store.places()
        assert not slow.write()
        assert (tables(store), store.places()) == before


def test_two_workers_share_the_partitions_and_hand_them_over(
    topic: Topic, store_url: str, kafka: str
) -> None:
    """The second joins while the first works and leaves again; facts come all the while."""
    facts = list(topic.log.read(1, topic.head))
    name = new_topic(kafka, partitions=4)
    brokers = Brokers(kafka, name)
    with made(store_url, brokers.events_topic()) as store, sender(kafka) as producer:
        stops = [threading.Event(), threading.Event()]
        threads = [threading.Thread(target=worker.work, args=(store, brokers, stop)) for stop in stops]
        threads[0].start()
        for number, start in enumerate(range(0, len(facts), 12)):
            send(producer, name, [message_of(LEDGER_ID, fact) for fact in facts[start : start + 12]])
            if number == 3:
                threads[1].start()
            if number == 10:
                stops[1].set()
        worker.work(store, brokers, threading.Event(), once=True)
        for stop in stops:
            stop.set()
        for thread in threads:
            thread.join(20)
        assert tables(store) == topic.expected


# --- what cannot be counted ------------------------------------------------------------------------------------------


def fact_of(**changed: Any) -> Fact:
    """An entry at position 7, as written, with some fields otherwise."""
    state = canonical_json({**ENTRY, **changed})
    stream = uuid4()
    topic = events.EntryPosted.TOPIC
    return Fact(7, stream, 1, topic, state, leaf_hash(stream.bytes, 1, topic.encode(), state))


ENTRY: dict[str, Any] = {
    "happened_at": "2026-03-02T01:00:00.000000Z",
    "recorded_at": "2026-03-02T01:00:00.000000Z",
    "caller_id": str(LEDGER_ID),
    "command_id": str(LEDGER_ID),
    "class_version": 1,
    "entry_id": str(LEDGER_ID),
    "session_id": str(LEDGER_ID),
    "order_id": None,
    "unit_id": str(LEDGER_ID),
    "activity_kind": "health",
    "served_on": "2026-03-02",
    "minutes": 90,
    "services": 1,
    "source_class": "confirmed",
    "inferred": False,
    "late": False,
    "reverses_entry_id": None,
    "rulebook_version": 1,
}
GOOD = fact_of()


def _strange() -> bytes:
    value = orjson.loads(message_of(LEDGER_ID, GOOD).value)
    leaf = leaf_hash(GOOD.stream_id.bytes, 1, b"entry.forgotten", GOOD.state)
    return orjson.dumps({**value, "type": "entry.forgotten.v1", "leafhash": leaf.hex(), "sequence": "8"})


BAD = {
    "no JSON": (b"\xff", "MESSAGE_MALFORMED", "–"),
    "nothing": (b"", "MESSAGE_MALFORMED", "–"),
    "changed on the way": (
        message_of(LEDGER_ID, GOOD).value.replace(b'"minutes":90', b'"minutes":91'),
        "MESSAGE_MALFORMED",
        "–",
    ),
    "an unknown topic": (_strange(), "UNREADABLE_FACT", 8),
    "a version from the future": (
        message_of(LEDGER_ID, replace(fact_of(class_version=2), position=8)).value,
        "UNREADABLE_FACT",
        8,
    ),
    "the same fact again": (message_of(LEDGER_ID, GOOD).value, "MESSAGE_MALFORMED", 7),
    "a value that no fact may have": (
        message_of(LEDGER_ID, replace(fact_of(source_class=None), position=8)).value,
        "UNREADABLE_FACT",
        8,
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_message_that_cannot_be_counted_is_named_and_never_passed(what: str, store_url: str) -> None:
    value, reason, position = BAD[what]
    good = message_of(LEDGER_ID, GOOD).value
    later = message_of(LEDGER_ID, replace(fact_of(), position=9)).value
    with made(store_url, ONE) as store:
        for _ in range(2):  # and after a restart
            places = store.places()
            batch = Batch(LEDGER_ID, "t", places)
            there = [(4, good), (5, message_of(OTHER_LEDGER, GOOD).value), (6, value), (7, later)]
            batch.take(0, [one for one in there if one[0] >= places[0].next_offset], 8)
            stopped = batch.stopped
            try:
                worker.take(store, batch)
            except MessageInTheWayError as error:  # what only the codec sees
                stopped = error
            assert stopped is not None
            assert {
                name: stopped.details[name] for name in ("partition", "offset", "position", "reason")
            } == {
                "partition": 0,
                "offset": 6,
                "position": position,
                "reason": reason,
            }
        (place,) = store.places().values()
        if what == "a value that no fact may have":
            assert (place.next_offset, place.facts) == (0, 0)
        else:
            assert (place.next_offset, place.facts, place.last_sequence, place.others) == (6, 1, 7, 1)
            with store.moment() as moment:
                assert [row[2] for row in moment.table(volunteer_hours)] == [90]


def test_a_worker_stops_at_such_a_message_and_loses_nothing(store_url: str, kafka: str) -> None:
    name = new_topic(kafka, 1)
    with sender(kafka) as producer:
        send(producer, name, [message_of(LEDGER_ID, GOOD), b"what is this?", message_of(LEDGER_ID, GOOD)])
    with made(store_url, Brokers(kafka, name).events_topic()) as store:
        with pytest.raises(MessageInTheWayError) as stopped:
            worker.work(store, Brokers(kafka, name), threading.Event())
        assert stopped.value.details["offset"] == 1
        assert store.places()[0].next_offset == 1


class EntryPostedLater(events.EntryPosted):
    """The same event in a class version to come, which calls the minutes otherwise and back."""

    class_version: ClassVar[int] = 2

    @staticmethod
    def upcast_v1_v2(fields: dict[str, Any]) -> None:
        fields["minutes"] = fields["minutes"] * 2


def test_a_fact_of_an_older_class_version_counts_as_what_it_became(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EVENTS_BY_TOPIC, EntryPostedLater.TOPIC, EntryPostedLater)  # type: ignore[arg-type]
    with made(store_url, ONE) as store:
        batch = Batch(LEDGER_ID, "t", store.places())
        newer = replace(fact_of(class_version=2), position=8)
        batch.take(0, [(0, message_of(LEDGER_ID, GOOD).value), (1, message_of(LEDGER_ID, newer).value)], 2)
        assert batch.stopped is None
        worker.take(store, batch)
        with store.moment() as moment:
            minutes = select(volunteer_hours.table().c.minutes)
            assert sorted(row["minutes"] for row in moment.rows(minutes)) == [90, 180]


# --- stores and topics that do not belong together -------------------------------------------------------------------


def refused(error: type[ExpectedError], work: Callable[[], object]) -> dict[str, Any]:
    with pytest.raises(error) as found:
        work()
    assert found.value.sentence_zh
    assert "?" not in found.value.sentence_en
    return found.value.details


def test_a_store_is_made_once_and_only_for_what_it_is(topic: Topic, database_url: str) -> None:
    feed = topic.feed
    with made(database_url, feed) as store, made(database_url, feed) as again:
        assert again.store_id == store.store_id
    others = {
        "ledger": (OTHER_LEDGER, feed),
        "topic": (LEDGER_ID, replace(feed, name="other")),
        "a number of partitions of": (LEDGER_ID, replace(feed, partitions=12)),
        "the topic with id": (LEDGER_ID, replace(feed, topic_id=uuid4())),
    }
    for what, (ledger_id, other) in others.items():
        make = lambda: WorkerStore.make(database_url, ledger_id, other)  # noqa: B023, E731
        assert refused(OtherStoreError, make)["what"] == what


def test_what_is_no_store_is_not_taken_for_one(topic: Topic, store_url: str, tmp_path: Path) -> None:
    refused(StoreMissingError, lambda: WorkerStore.open(store_url))
    url = topic.log.url.render_as_string()
    refused(StoreMissingError, lambda: WorkerStore.open(url))
    refused(NotAStoreError, lambda: WorkerStore.make(url, LEDGER_ID, topic.feed))
    (tmp_path / "figures.db").write_text("not a database at all, but longer than a header" * 9)
    refused(NotAStoreError, lambda: WorkerStore.open(store_url))
    refused(NotAStoreError, lambda: WorkerStore.make("mysql://somewhere/else", LEDGER_ID, topic.feed))


def test_a_store_with_other_figures_than_the_program_is_refused(topic: Topic, store_url: str) -> None:
    with made(store_url, topic.feed) as store, store.engine.begin() as connection:
        older = "figure_volunteer_hours_v0_parts"
        connection.execute(text(f"ALTER TABLE {volunteer_hours.table_name}_parts RENAME TO {older}"))
    found = refused(OtherFiguresError, lambda: WorkerStore.open(store_url))
    assert found == {"missing": [f"{volunteer_hours.table_name}_parts"], "strange": [older]}


def test_a_topic_that_is_gone_or_was_made_anew_is_refused(store_url: str, kafka: str) -> None:
    name = new_topic(kafka, 1)
    with made(store_url, Brokers(kafka, name).events_topic()) as store:
        with closing(KafkaAdminClient(bootstrap_servers=kafka)) as admin:
            admin.delete_topics([name])
        refused(
            TopicMissingError, lambda: worker.work(store, Brokers(kafka, name), threading.Event(), once=True)
        )
        new_topic(kafka, 1, name)
        assert (
            refused(
                OtherStoreError,
                lambda: worker.work(store, Brokers(kafka, name), threading.Event(), once=True),
            )["what"]
            == "the topic with id"
        )


def test_messages_that_were_deleted_before_they_were_taken_are_missed(
    topic: Topic, store_url: str, kafka: str
) -> None:
    name = new_topic(kafka, 1)
    fill(kafka, name, list(topic.log.read(1, 40)), accidents=False)
    with closing(KafkaAdminClient(bootstrap_servers=kafka)) as admin:
        admin.delete_records({TopicPartition(name, 0): 10})
    with made(store_url, Brokers(kafka, name).events_topic()) as store:
        found = refused(
            TopicCutError, lambda: worker.work(store, Brokers(kafka, name), threading.Event(), once=True)
        )
    assert (found["partition"], found["first"], found["wanted"]) == (0, 10, 0)


# --- as people run it ------------------------------------------------------------------------------------------------


def test_the_command_makes_the_store_feeds_it_and_says_how_far_it_is(topic: Topic, store_url: str) -> None:
    where = ["--store", store_url, "--bootstrap", topic.address, "--topic", topic.name]
    nowhere = wenming("work", *where[2:])
    assert (nowhere.code, nowhere.err.partition(" ")[0]) == (1, "INVALID_REQUEST")
    missing = wenming("work", "--status", *where)
    assert (missing.code, missing.err.partition(" ")[0]) == (1, "WORKER_STORE_MISSING")
    done = wenming("work", "--once", "--ledger", LEDGER_ID, *where)
    assert (done.code, done.err) == (0, f"figures at position {topic.head}\n")
    told = json.loads(wenming("work", "--status", "--json", *where).out)
    assert (told["position"], told["ledger_id"]) == (topic.head, str(LEDGER_ID))
    assert [row["behind"] for row in told["partitions"]] == [0, 0, 0]
    shown = wenming("work", "--status", *where).out
    assert f"figures at position {topic.head}" in shown
    other = wenming("work", "--once", "--ledger", OTHER_LEDGER, *where)
    assert (other.code, other.err.partition(" ")[0]) == (1, "WORKER_STORE_OTHER")


def test_a_worker_stops_cleanly_when_it_is_told_to(topic: Topic, store_url: str, tmp_path: Path) -> None:
    """It leaves its group, so that its partitions need not be waited for."""
    where = ["--store", store_url, "--bootstrap", topic.address, "--topic", topic.name]
    with running(tmp_path, "work", "--ledger", LEDGER_ID, *where) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not _stands_at_the_head(store_url, topic):
            assert process.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (tmp_path / "output").read_text()
    assert (tmp_path / "output").read_text() == f"figures at position {topic.head}\n"
    with closing(WorkerStore.open(store_url)) as store:
        group = store.group
    with closing(KafkaAdminClient(bootstrap_servers=topic.address)) as admin:
        assert not admin.describe_groups([group])[group]["members"]


def _stands_at_the_head(url: str, topic: Topic) -> bool:
    try:
        with closing(WorkerStore.open(url)) as store:
            return stands_at(store.places().values()) == (topic.head, topic.head)
    except (StoreMissingError, SQLAlchemyError):  # it is being made
        return False
