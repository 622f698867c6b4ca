"""A witness that is killed again and again, over real HTTP, while an operator tries to have two histories cosigned."""

import http.client
import os
import random
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ledger.signing_keys import read_key_files
from tests.cli import ROOT
from tests.witness.operator import Operator, cosigned
from tests.witness.test_http import Place

KILLS = 30
PROGRAM = """
import sys, pathlib, uvicorn
from api.witnessing import create_witness_app
from ledger.signing_keys import read_key_files
from ledger.witness import Witness, logs_of
key, state, log, port = sys.argv[1:]
with Witness(pathlib.Path(state), read_key_files([pathlib.Path(key)]), logs_of([log])) as witness:
    uvicorn.run(create_witness_app(witness), port=int(port), log_level="warning")
"""
"""What `wenming witness` runs, without what the other commands import: it is started thirty times."""


@contextmanager
def started(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """The witness as a process of its own, once it answers."""
    place.state.mkdir(exist_ok=True)
    command = [sys.executable, "-c", PROGRAM, place.key, place.state, place.log, str(place.port)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        place.wait()
        yield process
    finally:
        process.kill()
        process.wait()


class Shown:
    """What an operator with two views of one log got cosigned: never two histories, never a step back."""

    def __init__(self, place: Place, dice: random.Random) -> None:
        self.place, self.dice = place, dice
        self.views = (Operator(view="one"), Operator(view="another"))
        self.witness = read_key_files([place.key])[0]
        self.cosigned: list[tuple[int, bytes]] = []
        self.answers: dict[int, int] = {}

    def submit(self) -> None:
        """One view, grown or not, from where the witness is or from anywhere, until it answers other than where."""
        log = self.dice.choice(self.views)
        known = self.cosigned[-1][0] if self.cosigned else 0
        log.grow(max(0, known - log.size) + self.dice.randrange(9))
        old = min(self.dice.choice([known, known, self.dice.randrange(log.size + 1)]), log.size)
        new = self.dice.randrange(old, log.size + 1)
        status, text = self.place.add(log.request(old, new))
        if status == 409:  # it may have cosigned more than it could tell before it was killed
            old = new = min(int(text), log.size)
            status, text = self.place.add(log.request(old, new))
        self.answers[status] = self.answers.get(status, 0) + 1
        if status == 200:
            cosigned(log.note(new), text, self.witness)
            assert new >= known
            self.cosigned.append((new, log.root(new)))

    def check(self) -> None:
        """Everything cosigned is the beginning of one and the same view."""
        assert any(all(view.root(size) == root for size, root in self.cosigned) for view in self.views)


@pytest.mark.slow  # 30 to 60 s: a process is started for each kill
def test_no_kill_makes_it_cosign_two_histories_or_go_back(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, place = random.Random(seed), Place(tmp_path)
    shown, unanswered = Shown(place, dice), 0
    for _ in range(KILLS):
        with started(place) as process:
            death = threading.Timer(dice.uniform(0.0, 0.3), process.kill)
            death.start()
            try:
                while True:
                    shown.submit()
            except (urllib.error.URLError, ConnectionError, http.client.HTTPException):
                unanswered += 1
            death.join()
        shown.check()
    print(shown.answers)
    assert unanswered == KILLS
    assert set(shown.answers) <= {200, 400, 409, 422}
    assert shown.answers[200] > KILLS
    assert shown.answers[422] > 0
