"""A witness over HTTP: exactly the statuses of c2sp.org/tlog-witness, and what comes with each."""

import asyncio
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import uvicorn
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Message

from api import witnessing
from api.witnessing import STATUS, create_witness_app
from ledger.checkpoint import VerifierKey
from ledger.errors import WitnessRequestMalformedError
from ledger.witness import REQUEST_BYTES_MAX, Witness
from tests.cli import running, wenming
from tests.services import free_port
from tests.signer.test_signer import wait_for
from tests.witness.operator import KEY, LOGS, NOON, STRANGER, WITNESS, cosigned
from tests.witness.test_witness import FORK, LOG, NAME, REFUSED


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """A witness that knows nothing yet."""
    with (
        Witness(tmp_path, [WITNESS], LOGS, clock=lambda: NOON) as witness,
        TestClient(create_witness_app(witness), raise_server_exceptions=False) as client,
    ):
        yield client


def post(client: TestClient, body: bytes) -> tuple[int, str, str]:
    """Status, type and text of the answer."""
    answer = client.post("/add-checkpoint", content=body)
    return answer.status_code, answer.headers["content-type"], answer.text


def test_a_cosignature_is_lines_that_go_below_the_checkpoint(client: TestClient) -> None:
    status, _, lines = post(client, LOG.request(0, 5))
    assert status == 200
    note = cosigned(LOG.note(5), lines, WITNESS)
    newest = client.get(f"/{NAME}/checkpoint")
    assert (newest.status_code, newest.content) == (200, note.to_bytes())


def test_another_size_is_told_as_the_specification_writes_it(client: TestClient) -> None:
    assert post(client, LOG.request(5, 9)) == (409, "text/x.tlog.size", "0\n")
    post(client, LOG.request(0, 5))
    assert post(client, LOG.request(0, 9)) == (409, "text/x.tlog.size", "5\n")
    assert post(client, LOG.request(5, 9))[0] == 200


SPECIFIED = {
    "a leading zero": 400,
    "64 hashes": 400,
    "too long": 400,
    "a note that is none": 400,
    "a note that is no checkpoint": 400,
    "an old size above the new": 400,
    "another log under its name": 403,
    "a key of the same name": 403,
    "a wrong signature": 403,
    "another log": 404,
    "an older checkpoint": 409,
    "another tree of the same size": 422,
    "a proof of the same size": 422,
    "a fork": 422,
    "a proof cut short": 422,
}


@pytest.mark.parametrize("case", REFUSED)
def test_each_refusal_has_its_status(client: TestClient, case: str) -> None:
    post(client, LOG.request(0, 5))
    body, refusal = REFUSED[case]
    status, _, text = post(client, body)
    assert status == STATUS[refusal.code] == SPECIFIED.get(case, status)
    assert status in (400, 403, 404, 409, 422)
    assert text == "5\n" if status == 409 else refusal.code in text
    assert post(client, LOG.request(5, 9))[0] == 200


def test_every_case_of_the_specification_is_among_them() -> None:
    assert SPECIFIED.keys() <= REFUSED.keys()
    assert set(SPECIFIED.values()) == set(STATUS.values())


def test_only_logs_that_were_cosigned_are_shown(client: TestClient) -> None:
    for other in (NAME, sha256(STRANGER.name.encode()).hexdigest(), "x", "%2e%2e", NAME.upper()):
        assert client.get(f"/{other}/checkpoint").status_code == 404
    assert client.get("/healthz").text == "ok\n"
    assert client.get("/add-checkpoint").status_code == 405


def test_trouble_of_its_own_is_told_as_such_and_says_no_more(client: TestClient, tmp_path: Path) -> None:
    post(client, LOG.request(0, 5))
    (tmp_path / NAME).write_text("rubbish")
    status, _, text = post(client, LOG.request(5, 9))
    assert (status, str(tmp_path) in text) == (500, False)
    assert client.get(f"/{NAME}/checkpoint").status_code == 500


# --- as people run it ------------------------------------------------------------------------------------------------


class Place:
    """A witness as a process of its own, in a folder; it is started, killed and started again."""

    def __init__(self, folder: Path, log: str = KEY.verifier_key.to_text()) -> None:
        self.folder, self.port, self.log = folder, free_port(), log
        self.key, self.state = folder / "witness.key", folder / "state"
        made = wenming("key", "new", "--witness", "--name", WITNESS.name, self.key)
        self.vkey = made.out.strip()
        self.address = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[int]:
        """Its process id, once it answers."""
        arguments = ("--key", self.key, "--state", self.state, "--log", self.log)
        with running(self.folder, "witness", *arguments, "--port", self.port) as process:
            self.wait()
            yield process.pid

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/healthz", timeout=5):
                    return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "output").read_text()
                time.sleep(0.05)

    def add(self, body: bytes) -> tuple[int, str]:
        """Status and text; URLError or ConnectionError if it died meanwhile."""
        try:
            with urllib.request.urlopen(f"{self.address}/add-checkpoint", body, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()


@contextmanager
def served(folder: Path, logs: Mapping[str, tuple[VerifierKey, ...]] = LOGS) -> Iterator[str]:
    """The edge of a witness in this process, for those that ask it over HTTP; its address."""
    with Witness(folder, [WITNESS], logs) as witness:
        config = uvicorn.Config(create_witness_app(witness), port=free_port(), log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        wait_for(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{config.port}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_witness_runs_with_a_key_a_folder_and_a_log(place: Place) -> None:
    assert place.key.stat().st_mode & 0o777 == 0o600
    with place.running():
        assert place.state.stat().st_mode & 0o777 == 0o700
        assert place.add(LOG.request(0, 5))[0] == 200
        assert place.add(FORK.request(5, 9))[0] == 422
        second = wenming(
            "witness", "--key", place.key, "--state", place.state, "--log", KEY.verifier_key.to_text()
        )
        assert (second.code, second.err.split()[0]) == (1, "WITNESS_RUNNING")
        # A body that is announced and never comes keeps nobody waiting.
        with socket.create_connection(("127.0.0.1", place.port)) as slow:
            slow.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 100\r\n\r\nold")
            assert place.add(LOG.request(5, 9))[0] == 200
        assert place.add(LOG.request(9, 9)[:-1] + b"x" * REQUEST_BYTES_MAX)[0] == 400


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witnessing, "READ_SECONDS", 0.05)

    async def never() -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    with pytest.raises(WitnessRequestMalformedError, match="did not arrive"):
        asyncio.run(witnessing._body(Request({"type": "http"}, never)))


@pytest.mark.parametrize("missing", ["key", "state", "log"])
def test_what_it_needs_is_said(place: Place, missing: str) -> None:
    given = {"key": place.key, "state": place.state, "log": KEY.verifier_key.to_text()}
    del given[missing]
    done = wenming("witness", *(word for name, value in given.items() for word in (f"--{name}", value)))
    assert done.code == 1
    assert done.err.split()[0] == ("NOTE_KEY_MALFORMED" if missing == "log" else "INVALID_REQUEST")
