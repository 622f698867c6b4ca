"""By hand: one volunteer's hours from the facts alone, and the hash of a fact from its text alone.

Nothing of the product computes here: only HTTP, JSON, addition and hashlib.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from tests.api.conftest import Copier, Town, name


@pytest.fixture(scope="module")
def town(town_in: Copier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A life with everything in it: services, a back-fill over midnight, a declined one, a correction, a reversal."""
    for town in town_in(tmp_path_factory.mktemp("life")):
        town.enrol()
        town.enrol("zhao", 124, phone="13993809999")
        town.rate(town.served())
        town.served("of zhao", "zhao", minutes=60)
        town.wait(days=1)
        town.served("second", minutes=95)
        town.wait(days=1)
        night = {"started_at": "2026-03-03T23:00:00+08:00", "ended_at": "2026-03-04T01:00:00+08:00"}
        town.done(town.backfill(**night, break_minutes=15), "checker", {"verdict": "approved"})
        evening = {"started_at": "2026-03-03T20:00:00+08:00", "ended_at": "2026-03-03T21:00:00+08:00"}
        town.done(town.backfill("declined", **evening), "checker", {"verdict": "declined"})
        shorter = {"started_at": "2026-03-02T09:01:00+08:00", "ended_at": "2026-03-02T11:00:00+08:00"}
        town.done(town.correction(**shorter, break_minutes=10), "checker", {"verdict": "approved"})
        second = name("session", "second", "wang")
        town.done(town.correction("reversal", second, kind="reverse"), "checker", {"verdict": "approved"})
        yield town


@pytest.fixture(scope="module")
def history(town: Town) -> list[dict[str, Any]]:
    """All facts as an auditor gets them."""
    return every_event(town)


def every_event(town: Town) -> list[dict[str, Any]]:
    """All facts, page by page, as an auditor gets them."""
    found: list[dict[str, Any]] = []
    after = 0
    while after is not None:
        page = town.seen("/events", "auditor", after=after, limit=7)
        found += page["events"]
        after = page["next_after"]
    return found


def test_pages_of_events_are_the_whole_log_without_gaps(town: Town, history: list[dict[str, Any]]) -> None:
    assert [event["position"] for event in history] == list(range(1, town.last + 1))
    versions: defaultdict[str, int] = defaultdict(int)
    for event in history:
        versions[event["stream_id"]] += 1
        assert event["version"] == versions[event["stream_id"]]


def test_hours_are_the_sum_of_a_volunteers_entries(town: Town, history: list[dict[str, Any]]) -> None:
    wang = name("wang")
    entries = [e["data"] for e in history if e["topic"] == "entry.posted" and e["stream_id"] == wang]
    minutes = sum(entry["minutes"] for entry in entries)
    by_class: Counter[str] = Counter()
    by_month: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        by_class[entry["source_class"]] += entry["minutes"]
        by_month[entry["served_on"][:7], entry["source_class"]] += entry["minutes"]

    assert len(entries) == 7  # one, then another; two over midnight; one taken back for one; one taken back
    assert minutes == (119 - 10) + (60 + 60 - 15)
    hours = town.seen(f"/volunteers/{wang}/hours", "wang")
    assert hours["minutes"] == minutes
    assert {row["source_class"]: row["minutes"] for row in hours["by_source_class"]} == by_class
    assert {(row["month"], row["source_class"]): row["minutes"] for row in hours["by_month"]} == by_month
    explained = town.seen(f"/volunteers/{wang}/hours/explain", "wang")
    assert explained["minutes"] == minutes == sum(session["minutes"] for session in explained["sessions"])
    row = next(r for r in town.seen("/rankings/stars", "auditor")["rows"] if r["volunteer_id"] == wang)
    assert (row["minutes"], row["entry_ids"]) == (minutes, [entry["entry_id"] for entry in entries])
    thresholds = hours["star"]["thresholds_minutes"]
    assert hours["star"]["star"] == sum(minutes >= threshold for threshold in thresholds)


def test_a_unit_has_the_hours_of_all_who_served_there(town: Town, history: list[dict[str, Any]]) -> None:
    served = [e["data"] for e in history if e["topic"] == "entry.posted"]
    for unit in (town.station, town.unit("centre", "620523")):
        assert town.seen(f"/units/{unit}/hours", "auditor")["minutes"] == sum(e["minutes"] for e in served)


def test_any_moment_of_the_past_is_the_sum_up_to_there(town: Town, history: list[dict[str, Any]]) -> None:
    wang = name("wang")
    minutes = 0
    posted = [e for e in history if e["topic"] == "entry.posted" and e["stream_id"] == wang]
    for event in posted:
        before, minutes = minutes, minutes + event["data"]["minutes"]
        path = f"/volunteers/{wang}/hours"
        assert town.seen(path, "wang", as_of=str(event["position"] - 1))["minutes"] == before
        assert town.seen(path, "wang", as_of=str(event["position"]))["minutes"] == minutes


def test_every_event_hashes_to_its_leaf(town: Town, history: list[dict[str, Any]]) -> None:
    for event in history:
        fact = town.seen(f"/events/{event['position']}", "auditor")
        assert fact["leaf_index"] == event["position"] - 1
        assert json.loads(fact["state"]) == event["data"] == fact["data"]
        topic = fact["topic"].encode()
        entry = b"volunteer-ledger/event/v1\x00" + UUID(fact["stream_id"]).bytes
        entry += fact["version"].to_bytes(8, "big") + len(topic).to_bytes(2, "big") + topic
        entry += hashlib.sha256(fact["state"].encode("utf-8")).digest()
        assert hashlib.sha256(b"\x00" + entry).hexdigest() == fact["leaf_hash"] == event["leaf_hash"]


def test_a_volunteers_own_stream_is_what_the_auditor_sees(town: Town, history: list[dict[str, Any]]) -> None:
    own = town.seen(f"/streams/{name('wang')}", "wang")
    assert own["events"] == [event for event in history if event["stream_id"] == name("wang")]
    assert town.get(f"/streams/{name('wang')}", "wang").headers["ETag"] == f'"{own["version"]}"'


def test_events_of_a_topic_or_a_stream_are_those_of_the_whole(
    town: Town, history: list[dict[str, Any]]
) -> None:
    topics = ["entry.posted", "order.rated"]
    found = town.seen("/events", "auditor", topic=topics, limit=1000)["events"]
    assert found == [event for event in history if event["topic"] in topics]
    found = town.seen("/events", "auditor", stream=name("zhao"), limit=1000)["events"]
    assert found == [event for event in history if event["stream_id"] == name("zhao")]
