"""ClickHouse in this process (`chdb`): real databases, and the HTTP interface that a server would have."""

import base64
import importlib
import json
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from projections.elsewhere import Topic, topic_script

USER, PASSWORD = "auditor", "秘密 word:of/the@house"
_one_at_a_time = threading.Lock()


@cache
def _session() -> Any:
    """The one that a process may have."""
    if sys.platform == "win32":
        pytest.skip("chdb has no build for Windows")
    return importlib.import_module("chdb.session").Session()


class House:
    """A database of its own."""

    def __init__(self, folder: Path) -> None:
        self.name = f"h{uuid4().hex}"
        self._folder = folder
        _session().query(f"CREATE DATABASE {self.name}")

    def close(self) -> None:
        _session().query(f"DROP DATABASE {self.name}")

    def query(self, sql: str) -> str:
        """What a query prints; RuntimeError says what is wrong with it."""
        with _one_at_a_time:
            _session().query(f"USE {self.name}")
            return str(_session().query(sql, "JSONEachRow"))

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.query(sql).splitlines() if line]

    def run(self, statements: Iterable[str]) -> None:
        for statement in statements:
            self.query(statement)

    def follow_topic(self) -> None:
        """The script for the topic, apart from what makes the topic's table: this build has no Kafka in it."""
        kafka, *others = topic_script("clickhouse", Topic("events", "127.0.0.1:9092"))
        self.run([kafka.partition(" ENGINE = Kafka")[0] + " ENGINE = Null", *others])

    def receive(self, messages: Sequence[bytes]) -> None:
        """One block of messages, in the format of the Kafka table."""
        file = self._folder / f"{uuid4().hex}.json"
        file.write_bytes(b"\n".join(messages))
        self.query(f"INSERT INTO events SELECT json FROM file('{file}', 'JSONAsString')")

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Its address, as long as it answers there to `USER` with `PASSWORD`."""
        house = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self.answer(*house.answer(self.path, self.headers["Authorization"] or "", query))

            def answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{USER}@127.0.0.1:{server.server_port}/{self.name}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, path: str, login: str, query: str) -> tuple[int, str]:
        """As a ClickHouse server does: 403 and 404 with its own codes in the text."""
        if base64.b64decode(login.removeprefix("Basic ")).decode() != f"{USER}:{PASSWORD}":
            return 403, f"Code: 516. DB::Exception: {USER}: Authentication failed"
        if parse_qs(urlsplit(path).query)["database"] != [self.name]:
            return 404, "Code: 81. DB::Exception: Database does not exist. (UNKNOWN_DATABASE)"
        try:
            return 200, self.query(query)
        except RuntimeError as error:
            return 404, str(error)
