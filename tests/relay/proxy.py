"""Stands between clients and a broker, and hurts the connection at the requests that a test names."""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto

PRODUCE, FIND_COORDINATOR, INIT_PRODUCER_ID, ADD_PARTITIONS, END_TXN = 0, 10, 22, 24, 26
"""What Kafka's protocol calls the requests of a transaction (api keys)."""


class Fate(Enum):
    """What becomes of one request."""

    PASSES = auto()
    IS_LOST = auto()
    """The connection is cut instead."""
    LOSES_ITS_ANSWER = auto()
    """The broker does what was asked, and the connection is cut instead of answering."""


class Proxy:
    """``decide`` is asked for the fate of every request; it may wait as long as it likes."""

    def __init__(self, port: int, broker_port: int) -> None:
        self.decide: Callable[[int], Fate] = lambda _: Fate.PASSES
        self.hurt: Counter[tuple[int, str]] = Counter()
        self._broker = ("127.0.0.1", broker_port)
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            _cut(one)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            broker = socket.create_connection(self._broker)
        except OSError:
            _cut(client)
            return
        both, unanswered = (client, broker), set[int]()
        self._open.update(both)
        threading.Thread(target=self._answers, args=(*both, unanswered), daemon=True).start()
        with suppress(OSError):
            while frame := _frame(client):
                key, _, correlation = struct.unpack(">hhi", frame[4:12])
                fate = self.decide(key)
                if fate is not Fate.PASSES:
                    self.hurt[key, fate.name] += 1
                if fate is Fate.IS_LOST:
                    break
                if fate is Fate.LOSES_ITS_ANSWER:
                    unanswered.add(correlation)
                broker.sendall(frame)
        self._end(both)

    def _answers(self, client: socket.socket, broker: socket.socket, unanswered: set[int]) -> None:
        with suppress(OSError):
            while frame := _frame(broker):
                if struct.unpack(">i", frame[4:8])[0] in unanswered:
                    break
                client.sendall(frame)
        self._end((client, broker))

    def _end(self, both: tuple[socket.socket, socket.socket]) -> None:
        for one in both:
            _cut(one)
            self._open.discard(one)


def _frame(connection: socket.socket) -> bytes:
    """The next message with its length before it; nothing at the end of the connection."""
    if len(length := _exactly(connection, 4)) < 4:
        return b""
    body = _exactly(connection, struct.unpack(">i", length)[0])
    return length + body


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        if not (some := connection.recv(size - len(found))):
            return b""
        found += some
    return bytes(found)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def proxy_at(address: str, broker_address: str) -> Iterator[Proxy]:
    """A proxy on ``address`` for the broker at another; both ``host:port`` on loopback."""
    proxy = Proxy(*(int(one.rpartition(":")[2]) for one in (address, broker_address)))
    try:
        yield proxy
    finally:
        proxy.close()
