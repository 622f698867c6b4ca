"""The archive says what the log says, or is refused; it is never needed."""

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from uuid import uuid4

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from eventsourcing.persistence import StoredEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import archive as archiving
from ledger import codec, events
from ledger.archive import Archive
from ledger.codec import instant_text
from ledger.errors import ArchiveWrongError, LedgerDamagedError
from ledger.log import LedgerLog
from projections import engine, follower, replay
from projections.figures import all_figures
from tests.cli import wenming
from tests.county import LEDGER_ID, START, County, Step, name, sample_steps

numbers = st.integers(0, 100)
stories = st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=0, max_size=30)
SEGMENT = 16


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archive")


@pytest.fixture
def county(sqlite_url: str) -> Iterator[County]:
    """A county with some history and an archive of it."""
    made = County(sqlite_url)
    made.tell(sample_steps())
    archiving.write(made.log, place_of(made.log), SEGMENT)
    yield made
    made.close()


def place_of(log: LedgerLog) -> Path:
    return Path(f"{log.url.database}.archive")


def computed(
    log: LedgerLog, low: int, high: int, archive: Archive | None = None, by: str | None = None
) -> dict[str, Any]:
    columns = engine.compute(log, all_figures(), low, high, archive=archive, effective_by=by)
    try:
        return {figure.name: sorted(columns.rows(figure), key=repr) for figure in all_figures()}
    finally:
        columns.close()


# --- it says what the log says ---------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=settings.default.max_examples // 2)
@given(story=stories, data=st.data())
def test_every_figure_is_the_same_with_it_and_without(
    folder: Path, story: list[Step], data: st.DataObject
) -> None:
    county = County(f"sqlite:///{folder / f'{uuid4().hex}.db'}")
    county.tell(story)
    log, place = county.log, folder / uuid4().hex
    archiving.write(log, place, data.draw(st.integers(1, 40)))
    missing = data.draw(st.sets(st.integers(0, 9), max_size=3))
    for number, segment in enumerate(sorted(place.glob("0*"))):
        if number in missing:
            shutil.rmtree(segment)
    archive, head = Archive(log, place), log.head().size
    low = data.draw(st.integers(0, head))
    high = data.draw(st.integers(low, head))
    assert computed(log, low, high, archive) == computed(log, low, high)
    assert computed(log, 0, high, archive) == computed(log, 0, high)
    county.close()


@pytest.mark.parametrize("step", [67, pytest.param(11, marks=pytest.mark.slow)])
def test_every_figure_is_the_same_at_the_ends_of_segments_and_between(county: County, step: int) -> None:
    archive, head = Archive(county.log, place_of(county.log)), county.log.head().size
    assert len(archive.segments(0, head)) == head // SEGMENT >= 3
    ends = {position for end in range(0, head + 1, SEGMENT) for position in (end - 1, end, end + 1)}
    for position in sorted({0, *range(5, head, step), *ends, head} & set(range(head + 1))):
        assert computed(county.log, 0, position, archive) == computed(county.log, 0, position), position


def test_every_figure_is_the_same_in_stretches_and_merged_a_part_at_a_time(
    county: County, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, archive, head = county.log, Archive(county.log, place_of(county.log)), county.log.head().size
    expected = computed(log, 0, head)
    monkeypatch.setattr(engine, "ARCHIVED_POSITIONS", 2 * SEGMENT)
    monkeypatch.setattr(engine, "MERGED_VALUES", 20)
    assert computed(log, 0, head, archive) == expected
    columns = engine.compute(log, all_figures(), 0, head, archive=archive)
    for figure in all_figures():
        rows = [row for batch in columns.batches(figure) for row in engine.python_rows(batch)]
        assert sorted(rows, key=repr) == expected[figure.name]
    columns.close()


def test_replay_answers_the_same_from_it(database_url: str, tmp_path: Path) -> None:
    county = County(database_url)
    county.tell(sample_steps())
    log = county.log
    archiving.write(log, tmp_path / "archive", SEGMENT)
    archive, head = Archive(log, tmp_path / "archive"), log.head().size
    assert computed(log, 0, head, archive) == computed(log, 0, head)
    by = instant_text(county.now)
    assert computed(log, 0, head, archive, by) == computed(log, 0, head, by=by)
    for figure in all_figures():
        rows = replay.as_of(log, figure, head)
        assert replay.as_of(log, figure, head, archive=archive) == rows
        assert replay.diff(log, figure, 20, head, archive=archive) == replay.diff(log, figure, 20, head)
        for row in rows[:3]:
            for key in ({k: row[k] for k in figure.keys}, {figure.keys[-1]: row[figure.keys[-1]]}):
                assert replay.explain(log, figure, key, archive=archive) == replay.explain(log, figure, key)
    follower.rebuild(log, archive=archive)
    assert not any(replay.verify_against_live(log).values())
    assert not any(replay.verify_against_live(log, archive=archive).values())
    county.close()


def test_a_figure_that_is_new_is_first_built_from_it(county: County, monkeypatch: pytest.MonkeyPatch) -> None:
    log, archive = county.log, Archive(county.log, place_of(county.log))
    monkeypatch.setattr(follower, "SMALL_BATCH", 5)
    read: list[int] = []
    whole = engine.stored_batches
    monkeypatch.setattr(
        engine,
        "stored_batches",
        lambda log, low, high, *rest: (read.append(low), whole(log, low, high, *rest))[1],
    )
    assert follower.catch_up(log, archive=archive) == log.head().size
    archived = log.head().size // SEGMENT * SEGMENT
    assert min(read, default=archived) == archived  # only what no segment has
    assert not any(replay.verify_against_live(log).values())
    (place_of(log) / SECOND / archiving.MANIFEST).write_bytes(b"{}")
    follower.reset(log)
    with pytest.raises(ArchiveWrongError):
        follower.catch_up(log, archive=archive)
    assert follower.catch_up(log) == log.head().size


def test_only_whole_segments_are_archived_and_each_once(county: County) -> None:
    log, place = county.log, place_of(county.log)
    archived = sorted(path.name for path in place.glob("0*"))
    whole = log.head().size // SEGMENT
    assert archived == [archiving.folder_name(n * SEGMENT + 1, (n + 1) * SEGMENT) for n in range(whole)]
    assert archiving.write(log, place, SEGMENT) == []
    shutil.rmtree(place / archived[1])
    assert [segment.name for segment in archiving.write(log, place, SEGMENT)] == [archived[1]]
    assert archiving.check(log, place).wrong == ()
    assert archiving.check(log, place).facts == whole * SEGMENT


def test_any_program_reads_it(county: County) -> None:
    place = place_of(county.log)
    files = sorted(place.glob("0*/entry.posted.parquet"))
    read = duckdb.sql(
        f"SELECT position, stream_id, served_on, minutes FROM read_parquet({[str(f) for f in files]})"
    )
    last = len(list(place.glob("0*"))) * SEGMENT
    expected = []
    for row in county.log.read(1, last):
        if row.topic == "entry.posted":
            fact = codec.decode(row.topic, row.stream_id, row.version, row.state)
            assert isinstance(fact, events.EntryPosted)
            expected.append((row.position, row.stream_id, fact.served_on, fact.minutes))
    assert expected
    assert sorted(read.fetchall()) == expected
    table = pq.read_table(files[0])
    assert {"recorded_at", "happened_at", "caller_id", *events.EntryPosted.model_fields} - set(
        table.column_names
    ) == {
        "originator_id",
        "originator_version",
    }


# --- what is wrong is refused ----------------------------------------------------------------------------------------


def refused(log: LedgerLog, segment: str, problem: str) -> None:
    with pytest.raises(ArchiveWrongError) as error:
        computed(log, 0, log.head().size, Archive(log, place_of(log)))
    assert error.value.details["segment"] == segment
    assert problem in str(error.value.details["problem"])
    assert [one.details["segment"] for one in archiving.check(log, place_of(log)).wrong] == [segment]


SECOND = archiving.folder_name(SEGMENT + 1, 2 * SEGMENT)


def test_a_damaged_file_is_refused_and_written_anew(county: County) -> None:
    file = next((place_of(county.log) / SECOND).glob("volunteer.enrolled.parquet"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    refused(county.log, SECOND, "not as it was written")
    assert [one.name for one in archiving.write(county.log, place_of(county.log), SEGMENT)] == [SECOND]
    assert archiving.check(county.log, place_of(county.log)).wrong == ()


def test_a_file_damaged_after_it_was_read_is_refused(county: County) -> None:
    archive, head = Archive(county.log, place_of(county.log)), county.log.head().size
    computed(county.log, 0, head, archive)
    file = next((place_of(county.log) / SECOND).glob("volunteer.enrolled.parquet"))
    file.write_bytes(file.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(ArchiveWrongError):
        computed(county.log, 0, head, archive)


def test_a_segment_that_lost_a_file_is_not_read_and_a_check_says_so(county: County) -> None:
    log, place, head = county.log, place_of(county.log), county.log.head().size
    archive = Archive(log, place)
    expected = computed(log, 0, head, archive)
    (place / SECOND / "volunteer.enrolled.parquet").unlink()
    assert computed(log, 0, head, archive) == expected
    (wrong,) = archiving.check(log, place).wrong
    assert wrong.details == {"segment": SECOND, "problem": "volunteer.enrolled.parquet is missing"}
    assert [one.name for one in archiving.write(log, place, SEGMENT)] == [SECOND]
    assert archiving.check(log, place).wrong == ()


@pytest.mark.slow
def test_every_answer_is_the_same_while_segments_come_and_go(county: County) -> None:
    log, place, head = county.log, place_of(county.log), county.log.head().size
    archive, expected = Archive(log, place), computed(log, 0, head)
    stop = threading.Event()

    def come_and_go() -> None:
        dice = Random(1)
        while not stop.is_set():
            gone = dice.choice(sorted(place.glob("0*")))
            shutil.rmtree(gone) if dice.random() < 0.5 else dice.choice(sorted(gone.iterdir())).unlink()
            archiving.write(log, place, SEGMENT)
            stop.wait(0.05)  # long enough for some answers to be whole

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(3):
            assert computed(log, 0, head, archive) == expected
    finally:
        stop.set()
        thread.join()
    shutil.rmtree(place)
    assert computed(log, 0, head, archive) == expected


def test_a_file_that_is_there_and_cannot_be_read_is_no_reason_to_read_less(
    county: County, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "_require_whole", lambda *_: None)  # as if damaged just after that
    (place_of(county.log) / SECOND / "volunteer.enrolled.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(duckdb.Error):
        computed(county.log, 0, county.log.head().size, Archive(county.log, place_of(county.log)))


@pytest.mark.parametrize("damage", ["cut", "rows", "list"])
def test_a_damaged_manifest_is_refused(county: County, damage: str) -> None:
    file = place_of(county.log) / SECOND / archiving.MANIFEST
    fields = orjson.loads(file.read_bytes())
    fields["files"][0]["rows"] += 1
    texts = {"cut": file.read_bytes()[:-5], "rows": orjson.dumps(fields), "list": b"[]"}
    file.write_bytes(texts[damage])
    refused(county.log, SECOND, "manifest.json is damaged")


def test_rows_that_are_not_those_of_the_log_are_found_by_a_check_even_if_the_manifest_names_them(
    county: County,
) -> None:
    place = place_of(county.log) / SECOND
    path = next(place.glob("volunteer.enrolled.parquet"))
    table = pq.ParquetFile(path).read()
    relayed = table.column_names.index("relayed")
    other = [not value for value in table["relayed"].to_pylist()]
    pq.write_table(table.set_column(relayed, table.schema.field(relayed), [other]), path)
    fields = orjson.loads((place / archiving.MANIFEST).read_bytes())
    for file in fields["files"]:
        if file["topic"] == "volunteer.enrolled":
            file["sha256"] = archiving._sha256(path)
    (place / archiving.MANIFEST).write_bytes(orjson.dumps(fields))
    (wrong,) = archiving.check(county.log, place_of(county.log)).wrong
    assert "volunteer.enrolled is not what the log says" in wrong.sentence_en


def test_a_segment_of_another_ledger_or_of_another_past_is_refused(county: County, tmp_path: Path) -> None:
    for ledger_id, problem in ((uuid4(), "of ledger"), (LEDGER_ID, "not those of this log")):
        other = LedgerLog.create(
            f"sqlite:///{tmp_path / uuid4().hex}", ledger_id=ledger_id, kind="demo", created_at=START
        )
        rows = list(county.log.read())[1:]  # one is missing, so everything after it stands elsewhere
        firsts = {row.stream_id: row.version for row in reversed(rows)}
        other.insert_events(
            [StoredEvent(r.stream_id, r.version - firsts[r.stream_id] + 1, r.topic, r.state) for r in rows]
        )
        shutil.copytree(place_of(county.log), place_of(other))
        with pytest.raises(ArchiveWrongError, match=problem):
            computed(other, 0, other.head().size, Archive(other, place_of(other)))
        assert archiving.check(other, place_of(other)).wrong
        other.close()


def test_a_folder_without_a_manifest_is_not_read_and_is_written_anew(
    county: County, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log, place = county.log, tmp_path / "crashed"

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archiving, "_write_manifest", crash)
        with pytest.raises(KeyboardInterrupt):
            archiving.write(log, place, SEGMENT)
    assert [path.suffix for path in place.glob(f"{archiving.WRITING}/0*/*")].count(".parquet") >= 3
    assert Archive(log, place).segments(0, log.head().size) == []
    assert len(archiving.write(log, place, SEGMENT)) == log.head().size // SEGMENT
    (place / SECOND / archiving.MANIFEST).unlink()
    assert SECOND not in [segment.name for segment in Archive(log, place).segments(0, log.head().size)]
    assert [segment.name for segment in archiving.write(log, place, SEGMENT)] == [SECOND]
    assert archiving.check(log, place).wrong == ()


def test_a_fact_that_does_not_fit_its_hash_is_not_archived(county: County, tmp_path: Path) -> None:
    with county.log.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER IF EXISTS facts_no_update")
        for (trigger,) in connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'facts'"
        ).all():
            connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
        connection.exec_driver_sql("UPDATE facts SET version = 77 WHERE position = 5")
    with pytest.raises(LedgerDamagedError):
        archiving.write(county.log, tmp_path / "archive", SEGMENT)
    assert not list((tmp_path / "archive").glob("*/manifest.json"))


# --- older shapes ----------------------------------------------------------------------------------------------------


class LaterUnitRenamed(events.UnitRenamed):
    """A second shape, as a later program may have."""

    class_version: ClassVar[int] = 2
    short: str

    @staticmethod
    def upcast_v1_v2(fields: dict[str, Any]) -> None:
        fields["short"] = fields["name"][:2]


def test_facts_of_an_older_shape_are_archived_in_todays(
    county: County, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, place = county.log, place_of(county.log)
    fields = {
        "caller_id": name("x"), "class_version": 1, "command_id": name("y"), "happened_at": county.now,
        "name": "新名字", "recorded_at": log.head().recorded_at,
    }  # fmt: skip
    version = len(log.stream(county.station)) + 1
    topic = events.UnitRenamed.TOPIC
    log.insert_events([StoredEvent(county.station, version, topic, codec.canonical_json(fields))])
    position = log.head().size
    archiving.write(log, place, position)
    before = Archive(log, place).segments(position - 1, position)
    monkeypatch.setattr(codec, "EVENTS_BY_TOPIC", known := dict(codec.EVENTS_BY_TOPIC))
    monkeypatch.setattr(archiving, "EVENTS_BY_TOPIC", known)
    known[topic] = LaterUnitRenamed
    assert [one.last for one in before] == [] or not before[-1].is_current  # an older shape is not read …
    assert Archive(log, place).segments(position - 1, position) == []
    (anew,) = archiving.write(log, place, position)  # … and is written anew
    table = pq.read_table(place / anew.name / f"{topic}.parquet")
    assert table["short"].to_pylist()[-1] == "新名"
    assert archiving.check(log, place).wrong == ()


def test_segments_of_an_older_format_are_not_read_and_give_way(county: County) -> None:
    log, place = county.log, place_of(county.log)
    for file in place.glob(f"0*/{archiving.MANIFEST}"):
        file.write_bytes(orjson.dumps(orjson.loads(file.read_bytes()) | {"format": archiving.FORMAT - 1}))
    assert Archive(log, place).segments(0, log.head().size) == []
    assert not archiving.is_up_to(place, SEGMENT, SEGMENT)
    written = archiving.write(log, place, 2 * SEGMENT)
    last = written[-1].last
    left = {path.name for path in place.glob("0*")} - {segment.name for segment in written}
    assert left <= {archiving.folder_name(last + 1, last + SEGMENT)}  # whole only in the smaller size
    assert archiving.check(log, place).wrong == ()


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_checks_and_says_what_is_wrong(sqlite_url: str) -> None:
    county = County(sqlite_url)
    county.tell(sample_steps())
    place, segments = place_of(county.log), county.log.head().size // SEGMENT
    county.close()
    done = wenming("archive", "--database", sqlite_url, "--segment", str(SEGMENT))
    assert (done.code, f"{segments} new segments" in done.out) == (0, True), done.err
    assert wenming("archive", "--database", sqlite_url, "--check").code == 0
    assert wenming("rebuild", "--database", sqlite_url).code == 0
    assert wenming("verify", "--database", sqlite_url).code == 0
    (place / SECOND / archiving.MANIFEST).write_bytes(b"{}")
    done = wenming("archive", "--database", sqlite_url, "--check")
    assert (done.code, "ARCHIVE_WRONG" in done.err, SECOND in done.err) == (1, True, True)
    done = wenming("rebuild", "--database", sqlite_url)
    assert (done.code, done.err.startswith("ARCHIVE_WRONG")) == (1, True)
    shutil.rmtree(place)
    assert wenming("rebuild", "--database", sqlite_url).code == 0


# --- the page --------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent.parent / "docs" / "archive.md").read_text("utf-8")


def test_the_page_names_every_field_of_the_manifest_and_every_type(county: County) -> None:
    place = place_of(county.log) / SECOND
    manifest = orjson.loads((place / archiving.MANIFEST).read_bytes())
    for field in (*manifest, *manifest["files"][0]):
        assert f"`{field}`" in PAGE, field
    assert f"{archiving.FORMAT}: this page" in PAGE
    assert (
        f"{archiving.SEGMENT_POSITIONS:,} facts" in PAGE
        or f"{archiving.SEGMENT_POSITIONS:,} more facts" in PAGE
    )
    names = {"uuid": "UUID", "timestamp[us]": "TIMESTAMP", "date32[day]": "DATE", "int64": "INT64"}
    names |= {"bool": "BOOLEAN", "string": "STRING"}
    kinds = {kind for event in events.EVENT_TYPES for kind in archiving.column_kinds(event).values()}
    found = {"uuid" if kind == pa.uuid() else str(kind) for kind in kinds}
    assert found == set(names)
    assert all(f"`{names[kind]}`" in PAGE for kind in found)


def test_the_query_on_the_page_runs(county: County, capsys: pytest.CaptureFixture[str]) -> None:
    (query,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(query.replace("ledger.db.archive", str(place_of(county.log))), {})
    assert "2026-" in capsys.readouterr().out
