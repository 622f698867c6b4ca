"""Asking witnesses to cosign what was published (c2sp.org/tlog-witness), one thread a witness, beside the signer.

Signing never waits for a witness. Each is asked about the newest checkpoint only: from where it was, it is led on by a
proof, and what it missed while it was away is covered by what it cosigns next. Its answer is verified, and goes below
the stored note. A witness that knows more than this database holds, or that was shown another history, is an alarm:
either this is an old backup, or there are two logs of one name. Nothing is ever done to make an alarm go away.

What may not live here: signing, and what a witness does with what it is asked.
"""

import logging
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from email.message import Message
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, inspect, select
from sqlalchemy.exc import SQLAlchemyError

from ledger.application import utc_now
from ledger.checkpoint import (
    SIZE_MAX,
    Algorithm,
    Note,
    Signature,
    TrustedSignature,
    VerifierKey,
    parse_signature_lines,
)
from ledger.codec import instant_text
from ledger.errors import ExpectedError, InvalidRequestError, NoteKeyMalformedError
from ledger.merkle import TileError
from ledger.tree import TreeStore
from ledger.witness import AddCheckpoint

PAUSE_SECONDS = 1.0
"""How often a witness that is well is shown what is new."""
RETRY_SECONDS_MAX = 300.0
ASK_AGAIN_SECONDS = 24 * 3600.0
"""A witness is asked anew this often, and at the start, also about what it cosigned: is that still all it knows?"""
ANSWER_SECONDS = 10.0
"""How long an answer may take to begin, and again to end."""
ANSWER_BYTES_MAX = 1 << 16
TRIES = 3
"""Questions in a row: one to learn where a witness is, one to lead it on, one if it moved meanwhile."""

TROUBLES: Mapping[str, tuple[str, str]] = {
    "WITNESS_AHEAD": (
        "见证人副署过的账本（大小 {their_size}）比这个数据库（{size}）大：恢复了旧备份，或有两个同名账本。",
        "The witness cosigned a larger tree ({their_size}) than this database holds ({size}): an old backup was"
        " restored, or there are two logs of one name.",
    ),
    "WITNESS_REFUSED": (
        "见证人拒绝副署：大小为 {size} 的检查点不是它副署过的（大小 {their_size}）增长而来。",
        "The witness refuses: the checkpoint of size {size} is not the one it cosigned (size {their_size}) grown.",
    ),
    "COSIGNATURE_WRONG": (
        "见证人的回答中没有它对大小为 {size} 的检查点的有效副署。",
        "The witness's answer holds no valid cosignature of its own on the checkpoint of size {size}.",
    ),
    "LOG_UNKNOWN": (
        "见证人不认识本账本。请把账本的公钥交给见证人。",
        "The witness does not know this log. Give whoever runs it the log's public key.",
    ),
    "LOG_KEY_UNKNOWN": (
        "见证人不认识签署此检查点的密钥。请把新的公钥交给见证人。",
        "The witness knows none of the keys that signed this checkpoint. Give whoever runs it the new public key.",
    ),
    "WITNESS_AWAY": ("见证人没有给出可用的回答。", "The witness gives no answer that can be used."),
    "TILES_WRONG": (
        "缺少给见证人的证明所需的哈希块。请运行 wenming verify。",
        "Tiles are missing that the proof for the witness needs. Run: wenming verify",
    ),
}
"""What can stand between a checkpoint and a cosignature, in Chinese and English. Codes never change their meaning."""
ALARMS = frozenset({"WITNESS_AHEAD", "WITNESS_REFUSED"})

logger = logging.getLogger("wenming.cosigning")


# --- who is asked ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WitnessAt:
    """A witness: its public key, and the URL that ``/add-checkpoint`` is below."""

    key: VerifierKey
    url: str


def witnesses_of(lines: Iterable[str]) -> list[WitnessAt]:
    """Witnesses from lines ``VKEY URL``; blank lines and those that begin with # say nothing. INVALID_REQUEST."""
    found: list[WitnessAt] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            vkey, _, url = line.strip().partition(" ")
            found.append(WitnessAt(_key(number, vkey), _url(number, url)))
    if len({one.key for one in found}) < len(found):
        raise InvalidRequestError(problem="settings: witnesses: one of them is named twice")
    return found


def _key(number: int, vkey: str) -> VerifierKey:
    try:
        key = VerifierKey.from_text(vkey)
    except NoteKeyMalformedError as error:
        raise _wrong(number, str(error.details["problem"])) from None
    if key.algorithm is not Algorithm.COSIGNATURE_V1:
        raise _wrong(number, "the key is not a witness's, of the cosignature type 0x04")
    return key


def _url(number: int, text: str) -> str:
    url = text.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and " " not in url
    except ValueError:  # brackets that do not match, a port that is none
        whole = False
    if not whole:
        raise _wrong(number, "after the key and a space stands a URL with http:// or https://")
    return url


def _wrong(number: int, problem: str) -> InvalidRequestError:
    return InvalidRequestError(problem=f"settings: witnesses: line {number}: {problem}")


# --- what is known of them -------------------------------------------------------------------------------------------

witness_metadata = MetaData()

witness_reports = Table(
    "witness_reports",
    witness_metadata,
    Column("witness", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("cosigned_at", Text, nullable=False),
    Column("trouble", Text, nullable=False),
    Column("their_size", BigInteger, nullable=False),
    Column("trouble_at", Text, nullable=False),
)
"""One row a witness. It helps people to look, and proves nothing: cosignatures do."""


@dataclass(frozen=True)
class WitnessReport:
    """How it stands with a witness, by its key's label: the newest checkpoint that it cosigned (0: none yet), and when.

    ``trouble`` is a key of `TROUBLES` since ``trouble_at``, or empty; ``their_size`` is then what the witness knows.
    """

    witness: str
    size: int = 0
    cosigned_at: str = ""
    trouble: str = ""
    their_size: int = 0
    trouble_at: str = ""

    @property
    def is_alarm(self) -> bool:
        return self.trouble in ALARMS

    def sentences(self, size: int) -> tuple[str, str]:
        """What the trouble is, in Chinese and English; ``size`` is that of our newest checkpoint."""
        zh, en = TROUBLES[self.trouble]
        words = {"size": size, "their_size": self.their_size}
        return zh.format_map(words), en.format_map(words)


def reports_of(store: TreeStore) -> list[WitnessReport]:
    """How it stands with each witness that was ever asked, by name."""
    with store.log.engine.connect() as connection:
        if not inspect(connection).has_table(witness_reports.name):
            return []
        rows = connection.execute(select(witness_reports).order_by(witness_reports.c.witness))
        return [WitnessReport(**row._mapping) for row in rows]


def _write_report(store: TreeStore, connection: Connection, report: WitnessReport) -> None:
    values = vars(report)
    new = store.insert_into(witness_reports).values(values)
    connection.execute(new.on_conflict_do_update(index_elements=["witness"], set_=values))


# --- asking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    media_type: str
    body: bytes


Post = Callable[[str, bytes], Answer]
"""Sends a body to a URL; OSError, HTTPException or ValueError if no answer comes that can be used."""


@dataclass(frozen=True)
class _Newest:
    """The checkpoint that was published last."""

    size: int
    note: Note


class _Trouble(Exception):
    """No cosignature this time, and why."""

    def __init__(self, code: str, their_size: int = 0) -> None:
        super().__init__(code)
        self.code, self.their_size = code, their_size


class Cosigning:
    """Shows one witness what is new and keeps what it cosigns. Its knowledge of the witness is a guess, until told."""

    def __init__(
        self,
        store: TreeStore,
        witness: WitnessAt,
        clock: Callable[[], datetime] = utc_now,
        post: Post | None = None,
    ) -> None:
        self._store, self.witness, self._clock = store, witness, clock
        self._post = post or post_once
        self._report: WitnessReport | None = None
        self._ask_at = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Show it every new checkpoint until ``stop``; one that does not answer is asked less and less often."""
        pause = PAUSE_SECONDS
        while not stop.is_set():
            try:
                trouble = self.gather().trouble
            except (SQLAlchemyError, ExpectedError) as error:  # the database is away, or its note is none
                trouble = type(error).__name__
                logger.warning("%s: %s", self.witness.key.label, trouble)
            pause = min(pause * 2, RETRY_SECONDS_MAX) if trouble else PAUSE_SECONDS
            stop.wait(pause)

    def gather(self) -> WitnessReport:
        """Get the newest checkpoint cosigned, unless it is; how it stands with the witness then. NOTE_MALFORMED."""
        report, newest = self._known(), self._newest()
        if newest is None or self._is_done(report, newest):
            return report
        try:
            signature = self._ask(newest, report.size)
        except _Trouble as trouble:
            return self._in_trouble(report, newest, trouble)
        self._ask_at = time.monotonic() + ASK_AGAIN_SECONDS
        return self._cosigned(report, newest, signature)

    def _newest(self) -> _Newest | None:
        found = self._store.latest()
        return None if found is None else _Newest(found.size, Note.parse(found.note.encode()))

    def _is_done(self, report: WitnessReport, newest: _Newest) -> bool:
        """It said so itself not long ago, and its cosignature still stands below the note."""
        if (report.size, report.trouble) != (newest.size, "") or time.monotonic() >= self._ask_at:
            return False
        return _cosignature(self.witness.key, newest.note.text, newest.note.signatures) is not None

    # -- the report --

    def _known(self) -> WitnessReport:
        if self._report is None:
            label = self.witness.key.label
            stored = {one.witness: one for one in reports_of(self._store)}
            self._report = stored.get(label, WitnessReport(label))
        return self._report

    def _cosigned(self, report: WitnessReport, newest: _Newest, signature: TrustedSignature) -> WitnessReport:
        new = WitnessReport(report.witness, newest.size, instant_text(self._clock()))
        self._save(new, newest, [signature.signature])
        if report.trouble:
            logger.warning("%s cosigns again, size %d", report.witness, newest.size)
        return new

    def _in_trouble(self, report: WitnessReport, newest: _Newest, trouble: _Trouble) -> WitnessReport:
        new = replace(report, trouble=trouble.code, their_size=trouble.their_size)
        level = logging.CRITICAL if new.is_alarm else logging.WARNING
        logger.log(
            level, "%s (%s) %s: %s", new.witness, self.witness.url, new.trouble, new.sentences(newest.size)[1]
        )
        if new != report:
            new = replace(new, trouble_at=instant_text(self._clock()))
            self._save(new, newest, [])
        return new

    def _save(self, report: WitnessReport, newest: _Newest, signatures: list[Signature]) -> None:
        with self._store.writing() as connection:
            witness_metadata.create_all(connection)
            if signatures:
                self._store.add_signatures(connection, newest.size, newest.note.text, signatures)
            _write_report(self._store, connection, report)
        self._report = report

    # -- the question --

    def _ask(self, newest: _Newest, size: int) -> TrustedSignature:
        known = size if size <= newest.size else 0
        for _ in range(TRIES):
            answer = self._answer(newest, known)
            if answer.status == 200:
                return self._accepted(newest, answer)
            if answer.status == 409 and answer.media_type == "text/x.tlog.size":
                known = self._size_in(answer)
                if known > newest.size:
                    raise _Trouble("WITNESS_AHEAD", known)
            else:
                codes = {
                    403: "LOG_KEY_UNKNOWN",
                    404: "LOG_UNKNOWN",
                    409: "WITNESS_REFUSED",
                    422: "WITNESS_REFUSED",
                }
                raise _Trouble(codes.get(answer.status, "WITNESS_AWAY"), known)
        raise _Trouble("WITNESS_AWAY", known)  # it names another size each time

    def _answer(self, newest: _Newest, known: int) -> Answer:
        try:
            proof = self._store.consistency_proof(known, newest.size) if known else []
        except TileError:
            raise _Trouble("TILES_WRONG", known) from None
        request = AddCheckpoint(known, tuple(proof), newest.note.to_bytes())
        try:
            return self._post(f"{self.witness.url}/add-checkpoint", request.to_bytes())
        except (OSError, HTTPException, ValueError) as error:
            logger.info("%s: %s", self.witness.url, error)
            raise _Trouble("WITNESS_AWAY", known) from None

    def _accepted(self, newest: _Newest, answer: Answer) -> TrustedSignature:
        try:
            lines = parse_signature_lines(answer.body.decode())
        except (UnicodeDecodeError, ExpectedError):
            raise _Trouble("COSIGNATURE_WRONG") from None
        found = _cosignature(self.witness.key, newest.note.text, lines)
        if found is None:
            raise _Trouble("COSIGNATURE_WRONG")
        return found

    def _size_in(self, answer: Answer) -> int:
        found = re.fullmatch(rb"(0|[1-9][0-9]{0,18})\n?", answer.body)
        if found is None or int(found[1]) > SIZE_MAX:
            raise _Trouble("WITNESS_AWAY")
        return int(found[1])


def _cosignature(key: VerifierKey, text: str, lines: Iterable[Signature]) -> TrustedSignature | None:
    """The first valid cosignature of this key that says when; lines of others prove nothing."""
    for line in lines:
        if line.identity == (key.name, key.key_id):
            try:
                found = key.verify(text, line)
            except ExpectedError:
                continue
            if found.time_seconds:
                return found
    return None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What was asked of one witness is not told to another place; and a POST would arrive there as a GET."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def post_once(url: str, body: bytes) -> Answer:
    """`Post` by the standard library; answers beyond 64 kB, or that take too long, are given up."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "wenming-ledger"}
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with _opener.open(request, timeout=ANSWER_SECONDS) as response:
            return _answer_of(response.status, response.headers, response)
    except urllib.error.HTTPError as refused:
        with refused:
            return _answer_of(refused.code, refused.headers, refused)


def _answer_of(status: int, headers: Message, response: Any) -> Answer:
    body, deadline = bytearray(), time.monotonic() + ANSWER_SECONDS
    while chunk := response.read1(ANSWER_BYTES_MAX):
        body += chunk
        if len(body) > ANSWER_BYTES_MAX or time.monotonic() > deadline:
            raise ValueError("the answer is too long, or too long in coming")
    return Answer(status, headers.get_content_type(), bytes(body))
