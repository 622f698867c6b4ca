"""A small county that is hurt, and what must hold of it however it was hurt."""

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson
from sqlalchemy import select

from ledger import audit
from ledger.checkpoint import open_checkpoint
from ledger.errors import LedgerExistsError
from ledger.log import LedgerLog
from ledger.merkle import Frontier, verify_consistency
from ledger.schema import outcomes
from ledger.signer import Signer, State
from ledger.tree import TreeStore
from projections import replay
from tests.county import County
from tests.faults.hands import KEY, MINUTES, ORIGIN, Told, ledger_at, told, volunteer_command


@dataclass
class Scene:
    """One ledger, and everything that anybody was told of it."""

    url: str
    folder: Path
    began: float = field(default_factory=time.time)
    answers: dict[str, Told] = field(default_factory=dict)
    replayed: int = 0
    positions: list[int] = field(default_factory=list)
    signed: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with suppress(LedgerExistsError):
            County(self.url).close()
        self.log = LedgerLog.open(self.url, busy_seconds=30)

    @property
    def state(self) -> Path:
        """The signer's file."""
        return self.folder / "signer.json"

    def everything_done(self, numbers: range) -> None:
        """Each of these commands is sent again: done now, or already done."""
        for number in numbers:
            self.ask_again(number)

    # -- what was told --

    def heard_of_appending(self, heard: Iterable[Any]) -> None:
        """Each command answered once: what is told again under its key is the first answer."""
        for one in heard:
            key, command_id, first, last, replayed = cast(Told, one)
            self.replayed += replayed
            known = self.answers.setdefault(key, (key, command_id, first, last, replayed))
            assert known[:4] == (key, command_id, first, last)

    def heard_of_following(self, heard: Iterable[Any]) -> None:
        self.positions += heard

    def heard_of_signing(self, heard: Iterable[Any]) -> None:
        """A size has one root for ever, and the state never goes back."""
        for size, state in heard:
            tree = State.from_json(state).signed
            assert tree.size == size >= max(self.signed, default=0)
            assert self.signed.setdefault(size, tree.root()) == tree.root()

    def ask_again(self, number: int) -> None:
        """The command that was under way: done now, or already done and then answered as it would have been."""
        key, command, caller = volunteer_command(number)
        with self.log.engine.connect() as connection:
            kept = connection.execute(select(outcomes).where(outcomes.c.command_key == key)).first()
        answer = self._ledger().handle(command, caller, key=key)
        assert answer.replayed == (kept is not None)
        if kept is not None:
            assert (answer.first_position, answer.last_position) == (kept.first_position, kept.last_position)
        self.heard_of_appending([told(key, answer)])

    def _ledger(self) -> Any:
        ledger = ledger_at(self.url, self.began)
        ledger.ledger_log.close()
        ledger.ledger_log = self.log
        return ledger

    # -- what must hold --

    def check(self) -> None:
        """No fact lost or doubled, everything sound, figures equal, and the signer goes on with one history."""
        rows = list(self.log.read())
        assert [row.position for row in rows] == list(range(1, len(rows) + 1))
        self._check_answers(rows)
        assert max(self.positions, default=0) <= len(rows)
        assert not any(replay.verify_against_live(self.log).values())
        self._check_minutes(rows)
        self._check_signer(rows)
        report = audit.verify(self.log, log_keys=[KEY.verifier_key])
        assert report.ok, report.defects

    def _check_answers(self, rows: list[Any]) -> None:
        commands: Counter[str] = Counter()
        for row in rows:
            commands[orjson.loads(row.state)["command_id"]] += 1
        for _, command_id, first, last, _ in self.answers.values():
            assert commands[str(command_id)] == last - first + 1 > 0
            for row in rows[first - 1 : last]:
                assert orjson.loads(row.state)["command_id"] == str(command_id)

    def _check_minutes(self, rows: list[Any]) -> None:
        posted = [orjson.loads(row.state)["minutes"] for row in rows if row.topic == "entry.posted"]
        figure = next(one for one in replay.all_figures() if one.name == "volunteer_hours")
        assert sum(row["minutes"] for row in replay.live(self.log, figure)) == sum(posted)
        approved = sum(int(key) % 3 == 2 for key in self.answers)
        assert sum(posted) == MINUTES * approved, "each volunteer's hour counts once"

    def _check_signer(self, rows: list[Any]) -> None:
        with Signer(self.log, self.state, [KEY], ORIGIN) as signer:
            assert signer.sign_once() == len(rows)
            assert signer.check_past() == len(rows)
        tree, roots = Frontier(), {}
        for row in rows:
            tree.append(row.leaf_hash)
            roots[tree.size] = tree.root()
        for size, root in self.signed.items():
            assert size == 0 or roots[size] == root, "what was signed is what stands"
        store = TreeStore(self.log)
        newest = store.latest()
        assert newest is not None
        for size in range(1, len(rows) + 1):
            if (old := store.at(size)) is not None:
                opened = open_checkpoint(old.note.encode(), ORIGIN, [KEY.verifier_key])
                assert opened.checkpoint.root == old.root == roots[size]
                proof = store.consistency_proof(size, newest.size)
                verify_consistency(size, newest.size, proof, old.root, newest.root)

    def close(self) -> None:
        self.log.close()
