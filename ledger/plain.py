"""Rows that are sound in themselves: all that can be said of a fact without knowing any other, on any core.

A row is plain if its columns have their one form, its state is as the codec writes it, and it hashes to its leaf. Of a
plain row only its place is left to check: position, version, time and command. Of one that is not, nothing is said
here: `ledger.audit.facts` looks at it again, in full, and names what is wrong.

It is run by helpers, which are to be awake soon (`serve`; the other side is `ledger.audit.sharing`). So it imports
little: patterns come in as texts, and no database, event or codec is known here.
"""

import gc
import mmap
import pickle
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from ledger.merkle import leaf_hash

ID, INSTANT = 36, 27
STAMP = ID + ID + INSTANT
"""Characters of a stamp: caller_id, command_id and recorded_at, one after the other."""
NOT_PLAIN = " " * STAMP

UUID_TEXT = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
"""The one way an id is written."""

Row = Sequence[Any]
"""Position, stream id, version, topic, state and leaf hash, as they are stored."""
Forms = Mapping[str, Callable[[str], "re.Match[str] | None"]]
"""By topic, what matches a whole state that is sure to be sound; its groups are the parts of the stamp."""


_is_uuid = re.compile(UUID_TEXT).fullmatch


def stamps(rows: Sequence[Row], forms: Forms) -> str:
    """The stamps of these rows, one after the other; `NOT_PLAIN` for each that needs a closer look."""
    found: list[str] = []
    for _, stream_id, version, topic, state, leaf in rows:
        kind = type(state)
        if kind is not type(stream_id) or kind is not type(topic) or type(version) is not int:
            found.append(NOT_PLAIN)
            continue
        try:
            if kind is bytearray:  # how text is read from SQLite
                topic_bytes, state_bytes = topic, state
                stream_id, topic, state = stream_id.decode(), topic.decode(), state.decode()
            elif kind is str:
                topic_bytes, state_bytes = topic.encode(), state.encode()
            else:
                found.append(NOT_PLAIN)
                continue
            match = forms[topic](state)
            raw_id = bytes.fromhex(stream_id.replace("-", ""))
            computed = leaf_hash(raw_id, version, topic_bytes, state_bytes)
        except (
            KeyError,
            ValueError,
            OverflowError,
        ):  # no such topic, no UUID, not UTF-8, no room for a version
            found.append(NOT_PLAIN)
            continue
        if match is None or leaf != computed or type(leaf) is not bytes or _is_uuid(stream_id) is None:
            found.append(NOT_PLAIN)
        else:
            found += match.groups()
    return "".join(found)


# --- a helper's side -------------------------------------------------------------------------------------------------

SLOTS = 3
"""Batches that a helper has at once: one in hand, one waiting, one being taken back."""
SLOT_BYTES = 4 << 20
MESSAGE_BYTES = 8


def message(slot: int, length: int) -> bytes:
    """What goes through the pipe: which slot of the shared memory, and how much of it. Far shorter than any pipe."""
    return slot.to_bytes(4, "big") + length.to_bytes(4, "big")


def read_message(said: bytes) -> tuple[int, int]:
    """The slot and the length of a message."""
    return int.from_bytes(said[:4], "big"), int.from_bytes(said[4:], "big")


def serve() -> None:
    """Learn the patterns from the first slot, then examine batches until the reader is gone."""
    gc.disable()  # nothing here is circular
    with mmap.mmap(int(sys.argv[1]), 0) as memory:
        patterns: dict[str, str] = pickle.loads(memory[: int(sys.argv[2])])
        forms = {topic: re.compile(pattern).fullmatch for topic, pattern in patterns.items()}
        sys.stdout.buffer.write(message(0, 0))
        sys.stdout.buffer.flush()
        _serve(memory, forms, sys.stdin.buffer, sys.stdout.buffer)


def _serve(memory: mmap.mmap, forms: Forms, asks: IO[bytes], answers: IO[bytes]) -> None:
    while len(ask := asks.read(MESSAGE_BYTES)) == MESSAGE_BYTES:
        slot, length = read_message(ask)
        start = slot * SLOT_BYTES
        answer = stamps(pickle.loads(memory[start : start + length]), forms).encode("ascii")
        memory[start : start + len(answer)] = answer
        answers.write(message(slot, len(answer)))
        answers.flush()
