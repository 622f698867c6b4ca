"""An audit that other cores share in finds what it finds alone; and a row that is called plain has no fault."""

import subprocess
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import plain
from ledger.audit import sharing, verify, written_forms
from ledger.codec import decode, encode
from ledger.errors import UnreadableFactError
from ledger.log import LedgerLog
from ledger.merkle import leaf_hash
from tests.audit.test_verify import FACTS, Tampered, apply, new_ledger, tampered, tampered_file

FORMS = {topic: form.fullmatch for topic, form in written_forms().items()}


__all__ = ["tampered", "tampered_file"]


@pytest.fixture(scope="module")
def rows(tampered_file: Tampered) -> list[tuple[Any, ...]]:
    """The facts as they are read from SQLite: text as bytearray, blobs as bytes."""
    return [
        (
            r.position,
            bytearray(str(r.stream_id).encode()),
            r.version,
            bytearray(r.topic.encode()),
            bytearray(r.state),
            r.leaf_hash,
        )
        for r in tampered_file.log.read()
    ][1:]  # the rule book has no written form


# --- what is plain ---------------------------------------------------------------------------------------------------


def stamp_of(row: Sequence[Any]) -> str:
    return plain.stamps([row], FORMS)


def test_sound_facts_are_plain_and_stamped_with_caller_command_and_time(rows: list[tuple[Any, ...]]) -> None:
    found = plain.stamps(rows, FORMS)
    assert plain.NOT_PLAIN not in found
    for number, (_, stream_id, version, topic, state, _) in enumerate(rows):
        fact = decode(topic.decode(), UUID(stream_id.decode()), version, bytes(state))
        stamp = found[number * plain.STAMP : (number + 1) * plain.STAMP]
        assert stamp[:36] == str(fact.caller_id)
        assert stamp[36:72] == str(fact.command_id)
        assert stamp[72:] == fact.recorded_at.isoformat(timespec="microseconds")[:26] + "Z"


def test_postgresql_rows_are_plain_too_and_text_must_be_text(rows: list[tuple[Any, ...]]) -> None:
    position, stream_id, version, topic, state, leaf = rows[3]
    texts = (position, stream_id.decode(), version, topic.decode(), state.decode(), leaf)
    assert stamp_of(texts) == stamp_of(rows[3]) != plain.NOT_PLAIN
    for column in (1, 3, 4):
        mixed = list(rows[3])
        mixed[column] = bytes(mixed[column])  # a BLOB
        assert stamp_of(mixed) == plain.NOT_PLAIN
    blobs = (position, bytes(stream_id), version, bytes(topic), bytes(state), leaf)
    assert stamp_of(blobs) == plain.NOT_PLAIN


@pytest.mark.parametrize("column", [1, 2, 3, 4, 5])
def test_no_row_with_a_changed_bit_is_plain(rows: list[tuple[Any, ...]], column: int) -> None:
    for row in rows[::7]:
        stored = row[column].to_bytes(8, "big") if column == 2 else row[column]
        for index in range(len(stored)):
            changed = bytearray(stored)
            changed[index] ^= 1 << (index % 8)
            value = int.from_bytes(changed, "big", signed=True) if column == 2 else type(row[column])(changed)
            assert stamp_of([*row[:column], value, *row[column + 1 :]]) == plain.NOT_PLAIN, (row[0], index)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (1, bytearray(b"")), (1, bytearray(b"\xff")), (1, None), (1, bytearray(b"00" * 15)),
        (2, None), (2, -1), (2, 2**70), (2, 1.0), (2, True), (2, "1"),
        (3, bytearray(b"unit.abolished")), (3, bytearray(b"\xff")), (3, None),
        (4, bytearray(b"")), (4, bytearray(b"{}")), (4, bytearray(b"\xff")), (4, None), (4, bytearray(b"null")),
        (5, None), (5, b""), (5, bytes(32)), (5, "x" * 32), (5, bytearray(32)),
    ],
)  # fmt: skip
def test_columns_that_no_fact_may_have_are_not_plain(
    rows: list[tuple[Any, ...]], column: int, value: object
) -> None:
    assert stamp_of([*rows[3][:column], value, *rows[3][column + 1 :]]) == plain.NOT_PLAIN


def test_a_leaf_of_the_right_bytes_and_the_wrong_kind_is_not_plain(rows: list[tuple[Any, ...]]) -> None:
    assert stamp_of([*rows[3][:5], bytearray(rows[3][5])]) == plain.NOT_PLAIN


@given(data=st.data())
def test_whatever_is_plain_is_read_and_written_again_letter_for_letter(
    rows: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    """A state edited at will, hashed anew as its editor would: plain only if the codec would write just that."""
    _, stream_id, version, topic, state, _ = data.draw(st.sampled_from(rows))
    at, length = data.draw(st.integers(0, len(state))), data.draw(st.integers(0, 3))
    edited = (
        state[:at]
        + data.draw(st.binary(max_size=3) | st.sampled_from([b" ", b"0", b'"', b"9", b"Z", b"null"]))
        + state[at + length :]
    )
    raw_id = UUID(stream_id.decode()).bytes
    leaf = leaf_hash(raw_id, version, bytes(topic), bytes(edited))
    if stamp_of((1, stream_id, version, topic, edited, leaf)) != plain.NOT_PLAIN:
        try:
            assert encode(decode(topic.decode(), UUID(bytes=raw_id), version, bytes(edited))) == edited
        except UnreadableFactError as error:
            raise AssertionError("plain, but no fact") from error


# --- helpers ---------------------------------------------------------------------------------------------------------

EDITS: list[tuple[Any, ...]] = [
    ("delete", 20), ("swap", 11, 12), ("truncate", 41), ("double", 20), ("null", 30, "state"),
    ("put", 30, "topic", "x"), ("put", 7, "version", 9), ("put", 33, "leaf_hash", b""), ("put", 12, "state", "{}"),
    ("put", 12, "stream_id", "x"),
]  # fmt: skip


def test_helpers_change_nothing_that_is_found(tampered: Tampered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.audit.columns.READ_ROWS", 7)
    for edits in (EDITS[:0], *([edit] for edit in EDITS), EDITS):
        for edit in edits:
            apply(tampered, edit)
        alone, helped = verify(tampered.log, helpers=0), verify(tampered.log, helpers=2)
        assert (alone.defects, alone.defect_count, alone.root) == (
            helped.defects,
            helped.defect_count,
            helped.root,
        )
        assert dict(alone.checks) == dict(helped.checks)
        assert alone.ok is (not edits)
        tampered.restore()


def batches(rows: Sequence[Any], count: int) -> Iterator[list[Any]]:
    """Many small batches."""
    for at in range(count):
        yield list(rows[at % len(rows) :][:3])


def awake(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the reader wait for its helpers to be awake; counts what they took."""
    taken: list[int] = []
    started, give = sharing._Helper.__init__, sharing._Helper.give

    def waited(self: Any, *arguments: Any) -> None:
        started(self, *arguments)
        self.take_back(wait=True)

    def counted(self: Any, batch: Any) -> bool:
        took = give(self, batch)
        taken.append(took)
        return took

    monkeypatch.setattr(sharing._Helper, "__init__", waited)
    monkeypatch.setattr(sharing._Helper, "give", counted)
    return taken


def test_batches_come_back_in_order_whoever_examined_them(
    rows: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = awake(monkeypatch)
    given_rows = list(batches(rows, 300))
    found = list(sharing.examined(given_rows, helpers=2))
    assert [batch for batch, _ in found] == given_rows
    assert [stamps for _, stamps in found] == [plain.stamps(batch, FORMS) for batch in given_rows]
    assert sum(taken) > 3


def test_a_helper_that_dies_leaves_its_work_to_the_reader(
    rows: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = awake(monkeypatch)
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remembered(*arguments: Any, **options: Any) -> Any:
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", remembered)

    def dying() -> Iterator[list[Any]]:
        for number, batch in enumerate(batches(rows, 60)):
            if number == 20:
                processes[0].kill()
                processes[0].wait()
            yield batch

    found = list(sharing.examined(dying(), helpers=1))
    assert [stamps for _, stamps in found] == [plain.stamps(batch, FORMS) for batch in batches(rows, 60)]
    assert any(taken[:20])
    assert not any(taken[21:])


def test_where_no_helper_can_be_started_the_reader_does_it_all(
    tampered: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    report = verify(tampered.log, helpers=2)
    assert report.ok
    assert report.size == FACTS


def test_a_batch_that_fits_no_slot_stays_with_the_reader(
    rows: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = awake(monkeypatch)

    def large() -> Iterator[Any]:
        monkeypatch.setattr(sharing, "SLOT_BYTES", 100)
        yield rows

    (found,) = sharing.examined(large(), helpers=1)
    assert found[1] == plain.stamps(rows, FORMS)
    assert taken == [False]


def test_small_logs_need_no_help(sqlite_url: str) -> None:
    log: LedgerLog = new_ledger(sqlite_url)
    log.close()
    assert sharing.helpers_for(FACTS) == 0
    assert 0 <= sharing.helpers_for(10**6) <= sharing.HELPERS_MAX
