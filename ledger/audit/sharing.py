"""The examination of rows, shared with the other cores: helpers say which rows of a batch are plain.

One process reads the log, inside its one snapshot, and puts batches into shared memory; helpers answer with stamps; and
while all of them are busy the reader examines a batch itself. Answers are taken in the order of the batches, so what
depends on order stays where it was. A helper knows no database and keeps nothing: if one dies, or none can be started,
its batches are examined here.
"""

import mmap
import os
import pickle
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

from ledger.audit.forms import written_forms
from ledger.plain import MESSAGE_BYTES, SLOT_BYTES, SLOTS, Forms, Row, message, read_message, stamps

HELPED_FACTS = 50_000
"""Below it a helper would hardly be awake before all is done."""
HELPERS_MAX = 3
"""More than the reader can keep busy would only wait."""
WAITING_MAX = 64
"""Batches that are read and not yet taken in order; beyond it the reader waits for the first."""


def helpers_for(facts: int) -> int:
    """How many helpers a log of this size is worth, on the cores that this process may use."""
    if facts < HELPED_FACTS or os.name != "posix":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(HELPERS_MAX, cores - 1)


def examined(batches: Iterable[Sequence[Row]], helpers: int) -> Iterator[tuple[Sequence[Row], str]]:
    """Each batch with its stamps, in order."""
    forms = _forms()
    with _helping(helpers) as ready:
        waiting: deque[_Batch] = deque()
        for rows in batches:
            waiting.append(_Batch(rows))
            if not any(helper.give(waiting[-1]) for helper in ready):
                waiting[-1].stamps = stamps(rows, forms)
            while waiting and (waiting[0].is_done() or len(waiting) > WAITING_MAX):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@cache
def _forms() -> Forms:
    return {topic: form.fullmatch for topic, form in written_forms().items()}


@dataclass
class _Batch:
    """Rows that are examined somewhere; ``stamps`` is None until they are."""

    rows: Sequence[Row]
    stamps: str | None = None
    helper: "_Helper | None" = None

    def is_done(self) -> bool:
        if self.stamps is None and self.helper is not None:
            self.helper.take_back()
        return self.stamps is not None

    def result(self) -> tuple[Sequence[Row], str]:
        """The rows and their stamps, awaited; examined here after all if the helper is gone."""
        while self.stamps is None and self.helper is not None and self.helper.take_back(wait=True):
            pass
        return self.rows, stamps(self.rows, _forms()) if self.stamps is None else self.stamps


class _Helper:
    """A process that examines batches. A slot of the shared memory holds a batch, then its stamps."""

    def __init__(self, process: "subprocess.Popen[bytes]", memory: mmap.mmap) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._asks, self._answers = process.stdin, process.stdout
        self._memory = memory
        self._free: list[int] = []
        self._given: deque[tuple[int, _Batch]] = deque()
        self._is_awake, self._is_alive = False, True

    def give(self, batch: _Batch) -> bool:
        """Whether the helper takes the batch; not if it sleeps yet, is busy or gone, or the batch does not fit."""
        self.take_back()
        if not self._is_alive or not self._free:
            return False
        data = pickle.dumps(batch.rows, pickle.HIGHEST_PROTOCOL)
        if len(data) > SLOT_BYTES:
            return False
        slot = self._free.pop()
        self._memory[slot * SLOT_BYTES : slot * SLOT_BYTES + len(data)] = data
        try:
            self._asks.write(message(slot, len(data)))
        except OSError:
            self._is_alive = False
            return False
        batch.helper = self
        self._given.append((slot, batch))
        return True

    def take_back(self, *, wait: bool = False) -> bool:
        """Take what is answered, waiting for one answer if asked to; False once the helper is gone."""
        while self._is_alive and (self._given or not self._is_awake):
            os.set_blocking(self._answers.fileno(), wait)
            said = self._answers.read(MESSAGE_BYTES)
            if said is None:  # nothing yet
                break
            wait, self._is_alive = False, len(said) == MESSAGE_BYTES
            if self._is_alive:
                self._take(*read_message(said))
        return self._is_alive

    def _take(self, slot: int, length: int) -> None:
        if not self._is_awake:
            self._is_awake, self._free = True, list(range(SLOTS))
            return
        slot, batch = self._given.popleft()
        start = slot * SLOT_BYTES
        batch.stamps = self._memory[start : start + length].decode("ascii")
        self._free.append(slot)


@contextmanager
def _helping(count: int) -> Iterator[list[_Helper]]:
    """Helpers that are started, and gone at the end; fewer than asked for where they cannot be started."""
    with ExitStack() as stack:
        helpers = []
        for _ in range(count):
            try:
                helpers.append(stack.enter_context(_started()))
            except OSError:
                break
        yield helpers


@contextmanager
def _started() -> Iterator[_Helper]:
    patterns = pickle.dumps({topic: form.pattern for topic, form in written_forms().items()})
    with tempfile.TemporaryFile() as file:
        file.truncate(SLOTS * SLOT_BYTES)
        with mmap.mmap(file.fileno(), 0) as memory:
            memory[: len(patterns)] = patterns
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from ledger.plain import serve; serve()",
                    str(file.fileno()),
                    str(len(patterns)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=[file.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
            try:
                yield _Helper(process, memory)
            finally:
                process.kill()
                process.communicate()
