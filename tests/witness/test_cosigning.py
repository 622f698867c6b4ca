"""What the signer's side promises: every witness in reach cosigns, none is waited for, and alarms are told."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.witnessing import create_witness_app
from ledger import cosigning
from ledger.audit import verify
from ledger.checkpoint import Algorithm, Note, OpenedCheckpoint, SignerKey, VerifierKey, open_checkpoint
from ledger.cosigning import Answer, Cosigning, WitnessAt, WitnessReport, post_once, reports_of, witnesses_of
from ledger.errors import InvalidRequestError
from ledger.witness import REQUEST_BYTES_MAX, Witness
from tests.signer.conftest import KEY, NEXT_KEY, ORIGIN, Site, fact
from tests.signer.test_signer import wait_for
from tests.witness.operator import NOON

ONE = SignerKey("w1.example", bytes(range(3, 35)), Algorithm.COSIGNATURE_V1)
TWO = SignerKey("w2.example", bytes(range(5, 37)), Algorithm.COSIGNATURE_V1)


class Town:
    """Witnesses elsewhere, each a real one behind its real edge; ``away`` are those that cannot be reached."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.away: set[str] = set()
        self._clients: dict[str, TestClient] = {}
        self._folder, self._stack = folder, stack

    def add(self, key: SignerKey, *logs: SignerKey) -> WitnessAt:
        place = self._folder / key.name
        place.mkdir()
        keys = {ORIGIN: tuple(one.verifier_key for one in logs or (KEY,))}
        witness = self._stack.enter_context(Witness(place, [key], keys, clock=lambda: NOON))
        url = f"https://{key.name}"
        self._clients[url] = self._stack.enter_context(TestClient(create_witness_app(witness)))
        return WitnessAt(key.verifier_key, url)

    def post(self, url: str, body: bytes) -> Answer:
        place = url.removesuffix("/add-checkpoint")
        if place in self.away:
            raise ConnectionRefusedError
        answer = self._clients[place].post("/add-checkpoint", content=body)
        return Answer(answer.status_code, answer.headers["content-type"].split(";")[0], answer.content)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with ExitStack() as stack:
        yield Town(tmp_path, stack)


def opened(site: Site, *witnesses: WitnessAt) -> OpenedCheckpoint:
    """The newest published checkpoint, everything known below it verified."""
    newest = site.store.latest()
    assert newest is not None
    keys = [one.key for one in witnesses]
    return open_checkpoint(newest.note.encode(), ORIGIN, [KEY.verifier_key], keys)


def sign(site: Site, facts: int) -> None:
    site.grow(facts)
    assert site.sign() == site.count


# --- cosignatures ----------------------------------------------------------------------------------------------------


def test_every_witness_cosigns_what_is_published(site: Site, town: Town) -> None:
    witnesses = [town.add(ONE), town.add(TWO)]
    asking = [Cosigning(site.store, one, post=town.post) for one in witnesses]
    assert [one.gather().size for one in asking] == [0, 0]
    for facts in (1, 2, 252, 1, 1, 300):
        sign(site, facts)
        assert [one.gather().size for one in asking] == [site.count] * 2
        found = opened(site, *witnesses)
        found.require_witnesses(2)
        assert found.unknown == ()
    assert [(one.witness, one.size, one.trouble) for one in reports_of(site.store)] == [
        (one.key.label, site.count, "") for one in witnesses
    ]


def test_what_is_cosigned_is_not_asked_for_again_until_a_day_is_over(
    sqlite_site: Site, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness, asked = town.add(ONE), []

    def counted(url: str, body: bytes) -> Answer:
        asked.append(body)
        return town.post(url, body)

    asking = Cosigning(sqlite_site.store, witness, post=counted)
    sign(sqlite_site, 3)
    for _ in range(3):
        asking.gather()
    assert len(asked) == 1
    later = time.monotonic() + cosigning.ASK_AGAIN_SECONDS
    monkeypatch.setattr(cosigning.time, "monotonic", lambda: later)
    for _ in range(3):
        asking.gather()
    assert len(asked) == 2
    assert len(Note.parse(sqlite_site.store.latest().note.encode()).signatures) == 2  # type: ignore[union-attr]


def test_a_new_process_starts_from_where_the_witness_is(site: Site, town: Town) -> None:
    witness = town.add(ONE)
    sign(site, 5)
    assert Cosigning(site.store, witness, post=town.post).gather().size == 5
    sign(site, 5)
    assert Cosigning(site.store, witness, post=town.post).gather().size == 10
    site.edit(("DELETE FROM witness_reports", ()))
    sign(site, 5)
    assert Cosigning(site.store, witness, post=town.post).gather().size == 15


def test_an_absent_witness_keeps_nobody_and_catches_up(site: Site, town: Town) -> None:
    here, away = town.add(ONE), town.add(TWO)
    asking = [Cosigning(site.store, one, post=town.post) for one in (here, away)]
    town.away = {away.url}
    for facts in (4, 300, 7):
        sign(site, facts)
        assert [one.gather().trouble for one in asking] == ["", "WITNESS_AWAY"]
        assert opened(site, here, away).witness_names == {ONE.name}
    first, second = reports_of(site.store)
    assert (first.trouble, second.trouble, second.is_alarm) == ("", "WITNESS_AWAY", False)
    town.away = set()
    assert asking[1].gather().size == 311
    assert opened(site, here, away).witness_names == {ONE.name, TWO.name}
    assert [one.trouble for one in reports_of(site.store)] == ["", ""]


def test_a_signer_that_changes_its_key_keeps_the_cosignatures(site: Site, town: Town) -> None:
    witness = town.add(ONE, KEY, NEXT_KEY)
    sign(site, 3)
    asking = Cosigning(site.store, witness, post=town.post)
    asking.gather()
    site.sign(KEY, NEXT_KEY)
    assert opened(site, witness).witness_names == {ONE.name}
    site.grow(2)
    site.sign(NEXT_KEY)
    assert asking.gather().size == 5


def test_signatures_go_below_the_very_text_that_was_cosigned(sqlite_site: Site) -> None:
    sign(sqlite_site, 3)
    before = sqlite_site.store.latest()
    line = ONE.cosign(Note.parse(before.note.encode()).text, NOON)  # type: ignore[union-attr]
    with sqlite_site.store.writing() as connection:
        sqlite_site.store.add_signatures(connection, 3, "another text\n", [line])
        sqlite_site.store.add_signatures(connection, 4, "another size\n", [line])
    assert sqlite_site.store.latest() == before


# --- alarms and troubles ---------------------------------------------------------------------------------------------


def forked(site: Site) -> None:
    """The owner of the database rewrites a signed fact, and signs it all anew with a signer that has forgotten."""
    site.edit(
        site.write_fact(2, fact(1, "另一个站")),
        ("DELETE FROM checkpoints", ()),
        ("DELETE FROM tree_tiles", ()),
    )
    site.fit_the_head()
    site.state.unlink()


def test_a_forked_log_is_refused_and_cried_out(
    site: Site, town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    witness = town.add(ONE)
    asking = Cosigning(site.store, witness, post=town.post)
    sign(site, 5)
    asking.gather()
    forked(site)
    for facts in (0, 3):  # the size that was cosigned, and a larger one
        sign(site, facts)
        for one in (asking, Cosigning(site.store, witness, post=town.post)):
            caplog.clear()
            report = one.gather()
            assert (report.trouble, report.their_size, report.is_alarm) == ("WITNESS_REFUSED", 5, True)
            assert logging.CRITICAL in [record.levelno for record in caplog.records]
        assert opened(site, witness).witness_names == frozenset()
    assert [one.trouble for one in reports_of(site.store)] == ["WITNESS_REFUSED"]


def test_an_old_backup_is_noticed_by_signer_and_witness(
    sqlite_site: Site, town: Town, tmp_path: Path
) -> None:
    site, witness = sqlite_site, town.add(ONE)
    sign(site, 5)
    Cosigning(site.store, witness, post=town.post).gather()
    site.log.close()
    old, old_state = (tmp_path / "ledger.db").read_bytes(), site.state.read_bytes()
    site.log = type(site.log).open(site.url)
    site.store.log = site.log
    sign(site, 5)
    Cosigning(site.store, witness, post=town.post).gather()
    site.log.close()
    for leftover in tmp_path.glob("ledger.db*"):
        leftover.unlink()
    (tmp_path / "ledger.db").write_bytes(old)
    site.log = type(site.log).open(site.url)
    site.store.log = site.log
    with site.signer() as signer, pytest.raises(Exception, match="DATABASE_OLDER"):
        signer.sign_once()
    site.state.write_bytes(old_state)  # even if the signer's file was restored as well
    assert site.sign() == 5
    report = Cosigning(site.store, witness, post=town.post).gather()
    assert (report.trouble, report.their_size, report.is_alarm) == ("WITNESS_AHEAD", 10, True)
    site.log.insert_events([fact(number, "改写") for number in range(5, 13)])
    assert site.sign() == 13
    report = Cosigning(site.store, witness, post=town.post).gather()
    assert (report.trouble, report.their_size) == ("WITNESS_REFUSED", 10)


def test_a_witness_that_knows_neither_log_nor_key_says_so(sqlite_site: Site, town: Town) -> None:
    sign(sqlite_site, 1)
    knows_another_key = town.add(ONE, NEXT_KEY)
    report = Cosigning(sqlite_site.store, knows_another_key, post=town.post).gather()
    assert (report.trouble, report.is_alarm) == ("LOG_KEY_UNKNOWN", False)
    answer = Answer(404, "text/plain", b"")
    report = Cosigning(sqlite_site.store, knows_another_key, post=lambda *_: answer).gather()
    assert report.trouble == "LOG_UNKNOWN"


def test_tiles_that_are_gone_are_said_to_be(sqlite_site: Site, town: Town) -> None:
    witness = town.add(ONE)
    asking = Cosigning(sqlite_site.store, witness, post=town.post)
    sign(sqlite_site, 3)
    asking.gather()
    sign(sqlite_site, 3)
    sqlite_site.edit(("DELETE FROM tree_tiles", ()))
    assert asking.gather().trouble == "TILES_WRONG"


def line_of(key: SignerKey, site: Site, seconds: int = NOON) -> bytes:
    newest = site.store.latest()
    assert newest is not None
    return key.cosign(Note.parse(newest.note.encode()).text, seconds).to_line().encode()


def flipped(line: bytes) -> bytes:
    return line[:-10] + (b"AAA" if line[-10:-7] != b"AAA" else b"BBB") + line[-7:]


ANSWERS: dict[str, tuple[Callable[[Site], Answer], str]] = {
    "nothing": (lambda _: Answer(200, "text/plain", b""), "COSIGNATURE_WRONG"),
    "not text": (lambda _: Answer(200, "text/plain", b"\xff\n"), "COSIGNATURE_WRONG"),
    "rubbish": (lambda _: Answer(200, "text/plain", b"rubbish\n"), "COSIGNATURE_WRONG"),
    "another's": (lambda site: Answer(200, "text/plain", line_of(TWO, site)), "COSIGNATURE_WRONG"),
    "one that is wrong": (
        lambda site: Answer(200, "text/plain", flipped(line_of(ONE, site))),
        "COSIGNATURE_WRONG",
    ),
    "one without a time": (
        lambda site: Answer(200, "text/plain", line_of(ONE, site, 0)),
        "COSIGNATURE_WRONG",
    ),
    "its own among others": (
        lambda site: Answer(200, "text/plain", line_of(TWO, site) + line_of(ONE, site)),
        "",
    ),
    "another size each time": (lambda _: Answer(409, "text/x.tlog.size", b"1\n"), "WITNESS_AWAY"),
    "a size that is none": (lambda _: Answer(409, "text/x.tlog.size", b"one\n"), "WITNESS_AWAY"),
    "a size beyond 63 bits": (
        lambda _: Answer(409, "text/x.tlog.size", b"9999999999999999999"),
        "WITNESS_AWAY",
    ),
    "a larger size": (lambda _: Answer(409, "text/x.tlog.size", b"9"), "WITNESS_AHEAD"),
    "a conflict without a size": (lambda _: Answer(409, "text/plain", b""), "WITNESS_REFUSED"),
    "a malformed request": (lambda _: Answer(400, "text/plain", b""), "WITNESS_AWAY"),
    "trouble of its own": (lambda _: Answer(503, "text/html", b"<html>"), "WITNESS_AWAY"),
    "a redirect": (lambda _: Answer(302, "text/html", b""), "WITNESS_AWAY"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_only_its_own_valid_cosignature_is_taken(sqlite_site: Site, case: str) -> None:
    answer, trouble = ANSWERS[case]
    sign(sqlite_site, 2)
    witness = WitnessAt(ONE.verifier_key, "https://w1.example")
    report = Cosigning(sqlite_site.store, witness, post=lambda *_: answer(sqlite_site)).gather()
    assert report.trouble == trouble
    found = opened(sqlite_site, witness)
    assert found.witness_names == (frozenset() if trouble else {ONE.name})
    assert found.unknown == ()
    if trouble:
        assert all(report.sentences(2))


def test_what_stands_in_a_report_of_another_trouble_is_written_once(sqlite_site: Site) -> None:
    sign(sqlite_site, 2)
    witness = WitnessAt(ONE.verifier_key, "https://w1.example")
    asking = Cosigning(sqlite_site.store, witness, post=lambda *_: Answer(503, "text/html", b""))
    first = asking.gather()
    assert asking.gather() == first
    assert reports_of(sqlite_site.store) == [first]


# --- over HTTP -------------------------------------------------------------------------------------------------------


@contextmanager
def strange_server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server on loopback that answers every POST in a way of its own; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def log_message(self, *_: object) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_answer_is_its_status_type_and_body() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(409)
        handler.send_header("Content-Type", "text/x.tlog.size; charset=x")
        handler.end_headers()
        handler.wfile.write(b"7\n")

    with strange_server(answer) as url:
        assert post_once(url, b"old 0") == Answer(409, "text/x.tlog.size", b"7\n")


def test_nobody_is_followed_elsewhere() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", "http://127.0.0.1:9/")
        handler.end_headers()

    with strange_server(answer) as url:
        assert post_once(url, b"old 0").status == 307


def test_an_endless_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def long(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"x" * (REQUEST_BYTES_MAX + 1))

    def slow(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    with strange_server(long) as url, pytest.raises((ValueError, OSError)):
        post_once(url, b"old 0")
    monkeypatch.setattr(cosigning, "ANSWER_SECONDS", 0.2)
    with strange_server(slow) as url, pytest.raises(ValueError, match="too long"):
        post_once(url, b"old 0")


def test_rubbish_on_the_line_is_no_more_than_a_witness_away(sqlite_site: Site) -> None:
    def rubbish(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"rubbish\r\n\r\n")

    sign(sqlite_site, 1)
    with strange_server(rubbish) as url:
        report = Cosigning(sqlite_site.store, WitnessAt(ONE.verifier_key, url)).gather()
    assert report.trouble == "WITNESS_AWAY"


# --- while it runs ---------------------------------------------------------------------------------------------------


def test_it_asks_on_until_it_is_told_to_stop(
    sqlite_site: Site, town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cosigning, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(cosigning, "RETRY_SECONDS_MAX", 0.02)
    witness, stop = town.add(ONE), threading.Event()
    asking = Cosigning(sqlite_site.store, witness, post=town.post)
    thread = threading.Thread(target=asking.run, args=(stop,))
    thread.start()
    try:
        sign(sqlite_site, 3)
        wait_for(lambda: [one.size for one in reports_of(sqlite_site.store)] == [3])
        town.away = {witness.url}
        sign(sqlite_site, 1)
        wait_for(lambda: [one.trouble for one in reports_of(sqlite_site.store)] == ["WITNESS_AWAY"])
        town.away = set()
        sqlite_site.edit(("UPDATE checkpoints SET note = 'rubbish'", ()))  # nothing of a database ends it
        wait_for(lambda: "NoteMalformedError" in caplog.text)
        sqlite_site.edit(("DELETE FROM checkpoints WHERE size = 4", ()))
        sqlite_site.state.unlink()
        sqlite_site.edit(("DELETE FROM checkpoints", ()), ("DELETE FROM tree_tiles", ()))
        sign(sqlite_site, 0)
        wait_for(lambda: [one.size for one in reports_of(sqlite_site.store)] == [4])
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


# --- who is asked ----------------------------------------------------------------------------------------------------


def test_witnesses_are_read_from_lines() -> None:
    lines = [
        "# outside the county",
        "",
        f"{ONE.verifier_key.to_text()} https://w1.example/submit/",
        f"  {TWO.verifier_key.to_text()}   http://127.0.0.1:8100 ",
    ]
    assert witnesses_of(lines) == [
        WitnessAt(ONE.verifier_key, "https://w1.example/submit"),
        WitnessAt(TWO.verifier_key, "http://127.0.0.1:8100"),
    ]
    assert witnesses_of([]) == []


VKEY = ONE.verifier_key.to_text()


@pytest.mark.parametrize(
    "line",
    [
        VKEY,
        f"{VKEY} ",
        f"{VKEY} w1.example",
        f"{VKEY} file:///etc/passwd",
        f"{VKEY} https:///nowhere",
        f"{VKEY} https://[1",
        f"{VKEY} https://w1.example:port",
        f"{VKEY} https://w1.example https://w2.example",
        f"https://w1.example {VKEY}",
        f"{KEY.verifier_key.to_text()} https://w1.example",
        f"{VKEY[:-4]}AAA= https://w1.example",
    ],
)
def test_a_line_that_names_no_witness_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(InvalidRequestError, match="line 2"):
        witnesses_of(["# ok", line])


def test_nobody_is_named_twice() -> None:
    with pytest.raises(InvalidRequestError, match="twice"):
        witnesses_of([f"{VKEY} https://w1.example", f"{VKEY} https://w2.example"])


# --- verify ----------------------------------------------------------------------------------------------------------


def codes(site: Site, keys: list[VerifierKey], minimum: int) -> set[str]:
    report = verify(site.log, log_keys=[KEY.verifier_key], witness_keys=keys, witnesses_min=minimum)
    return {one.code for one in report.defects}


def test_verify_says_who_cosigned_and_asks_for_enough(site: Site, town: Town) -> None:
    both = [town.add(ONE), town.add(TWO)]
    keys = [one.key for one in both]
    assert codes(site, keys, 1) == {"COSIGNATURES_TOO_FEW"}
    sign(site, 4)
    for one in both:
        Cosigning(site.store, one, post=town.post).gather()
    assert codes(site, keys, 2) == codes(site, keys, 0) == codes(site, [], 0) == set()
    assert codes(site, keys[:1], 2) == {"COSIGNATURES_TOO_FEW"}
    sign(site, 4)
    Cosigning(site.store, both[1], post=town.post).gather()
    report = verify(site.log, log_keys=[KEY.verifier_key], witness_keys=keys, witnesses_min=2)
    assert [(one.code, "is of size 4" in one.en) for one in report.defects] == [
        ("COSIGNATURES_TOO_FEW", True)
    ]
    assert [(one.witness, one.size, one.time_seconds) for one in report.witnessed] == [
        (ONE.verifier_key.label, 4, NOON),
        (TWO.verifier_key.label, 8, NOON),
    ]
    assert codes(site, keys, 1) == set()


def test_verify_finds_a_cosignature_that_is_wrong(site: Site, town: Town) -> None:
    witness = town.add(ONE)
    sign(site, 4)
    Cosigning(site.store, witness, post=town.post).gather()
    newest = site.store.latest()
    assert newest is not None
    wrong = flipped(newest.note.encode()).decode()
    site.edit(("UPDATE checkpoints SET note = ?", (wrong,)))
    assert codes(site, [witness.key], 0) == {"CHECKPOINT_NOTE_WRONG"}
    assert codes(site, [], 0) == set()


def test_a_log_whose_key_changed_is_verified_by_the_old_by_both_and_by_the_new(site: Site) -> None:
    def found(*keys: SignerKey) -> tuple[set[str], int]:
        report = verify(site.log, log_keys=[key.verifier_key for key in keys])
        return {one.code for one in report.defects}, report.checks.get("checkpoints of keys not given", 0)

    sign(site, 2)
    sign(site, 1)
    assert found(KEY) == (set(), 0)
    site.grow(3)
    site.sign(KEY, NEXT_KEY)  # the newest one too, of size 3
    assert found(KEY) == found(KEY, NEXT_KEY) == (set(), 0)
    assert found(NEXT_KEY) == (set(), 1)
    site.grow(3)
    site.sign(NEXT_KEY)
    assert found(KEY) == ({"CHECKPOINT_NOTE_WRONG"}, 0)  # the newest must be signed by a key that is known
    assert found(KEY, NEXT_KEY) == (set(), 0)
    assert found(NEXT_KEY) == (set(), 1)


def test_a_report_knows_an_alarm_from_a_trouble() -> None:
    assert [WitnessReport("w", trouble=one).is_alarm for one in ("", "WITNESS_AWAY", "WITNESS_AHEAD")] == [
        False,
        False,
        True,
    ]
