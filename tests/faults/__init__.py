"""What is left of a ledger after everything that can go wrong: processes killed, disks full, bits flipped.

Every test prints its seed. ``WENMING_FAULTS_SEED`` repeats one; ``WENMING_FAULTS_TIMES`` multiplies the numbers (10 for
a night, 0.1 while working on a test).
"""

import multiprocessing
import os
import random
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.faults.hands", "ledger.rotation"])


def times(number: int) -> int:
    """A number of CI, or its multiple in a longer run."""
    return max(1, round(number * float(os.environ.get("WENMING_FAULTS_TIMES", "1"))))


def chances(what: str) -> random.Random:
    """Where the accidents of a test come from; what is printed repeats them."""
    seed = int(os.environ.get("WENMING_FAULTS_SEED") or random.SystemRandom().randrange(2**32))
    print(f"\n{what}: WENMING_FAULTS_SEED={seed}")
    return random.Random(seed)


class Hand:
    """A process of its own that does something and tells what it did; forked from one that has everything imported."""

    def __init__(self, does: Callable[..., None], *given: object) -> None:
        self._told, telling = _forks.Pipe(duplex=False)
        self._process: BaseProcess = _forks.Process(target=does, args=(telling, *given), daemon=True)
        self._process.start()
        telling.close()

    def hear(self, seconds: float = 60) -> object:
        """The next thing it tells; EOFError once it is gone and everything was heard."""
        if not self._told.poll(seconds):
            raise TimeoutError("it tells nothing")
        return self._told.recv()

    def kill(self) -> list[object]:
        """SIGKILL; what it had told and nobody had heard."""
        self._process.kill()
        return self.rest()

    def rest(self) -> list[object]:
        """All it tells until it ends."""
        heard = []
        try:
            while True:
                heard.append(self.hear())
        except (EOFError, OSError):  # the last word may be cut off in the middle
            self._process.join(60)
            self._told.close()
            return heard

    @property
    def exit_code(self) -> int | None:
        """How it ended: negative for a signal; None while it lives."""
        return self._process.exitcode


Telling = Connection
