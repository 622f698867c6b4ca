"""What commands led to, beside the facts: each record covers just the facts of its command."""

from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from ledger import ids
from ledger.audit.columns import Source
from ledger.audit.forms import is_uuid
from ledger.audit.report import Findings


@dataclass(frozen=True, slots=True)
class _Outcome:
    person_id: str
    command_id: str
    first: int
    last: int


class Outcomes:
    """Walks command_outcomes beside the facts: each record covers just the facts of its command.

    Facts of one command stand together. A command with a key has an id that follows from it (a version-5 UUID), so
    its facts must have a record; a record without facts names the position where they would have begun.
    """

    def __init__(self, ledger_id: UUID, source: Source, findings: Findings) -> None:
        self.checked = 0
        self._ledger_id = ledger_id
        self._has_table = "command_outcomes" in source.readable
        self._text = source.text
        self._findings = findings
        self._first, self._last = 1, 0
        self._command_id: str | None = None
        self._caller_id: str | None = None
        self._claimed = 0
        self._sound = (outcome for row in source.outcomes() if (outcome := self._read(row)) is not None)
        self._next = next(self._sound, None)

    def fact(self, position: int, command_id: str | None, caller_id: str | None) -> None:
        """The next fact; it ends the run of the command before it if it is another's."""
        if command_id != self._command_id or caller_id != self._caller_id:
            self._end_run()
            self._first, self._command_id, self._caller_id = position, command_id, caller_id
        self._last = position

    def finish(self) -> None:
        """There are no more facts: what is left may only be records of commands that had nothing to do."""
        self._end_run()
        while (outcome := self._next) is not None:
            self._next = next(self._sound, None)
            if (outcome.first, outcome.last) != (self._last + 1, self._last):
                self._wrong(outcome, "OUTCOME_RANGE_WRONG")

    def _end_run(self) -> None:
        """Compare the run of one command's facts with the records that begin no later than it ends."""
        recorded = False
        while (outcome := self._next) is not None and outcome.first <= self._last:
            self._next = next(self._sound, None)
            recorded |= outcome.first <= outcome.last
            self._compare(outcome)
        from_key = self._command_id is not None and self._command_id[14] == "5"
        if from_key and not recorded and self._has_table:
            self._findings.found(self._first, "OUTCOME_MISSING", first=self._first)

    def _compare(self, outcome: _Outcome) -> None:
        if outcome.first <= min(outcome.last, self._claimed):
            self._findings.found(outcome.first, "OUTCOMES_OVERLAP")
        self._claimed = max(self._claimed, outcome.last)
        if outcome.first != self._first or outcome.last not in (self._last, self._first - 1):
            self._wrong(outcome, "OUTCOME_RANGE_WRONG")
        elif outcome.last == self._last and self._command_id is not None:
            if outcome.command_id != self._command_id:
                self._wrong(outcome, "OUTCOME_COMMAND_WRONG")
            if outcome.person_id != self._caller_id:
                self._wrong(outcome, "OUTCOME_PERSON_WRONG")

    def _wrong(self, outcome: _Outcome, code: str) -> None:
        self._findings.found(max(outcome.first, 1), code, first=outcome.first, last=outcome.last)

    def _read(self, row: Any) -> _Outcome | None:
        """A record whose columns are sound and whose command id follows from its key, or None and a defect."""
        self.checked += 1
        person, key, digest, command, first, last = row
        person_id, command_key, command_id = self._text(person), self._text(key), self._text(command)
        malformed = {
            "person_id": person_id is None or is_uuid(person_id) is None,
            "command_key": command_key is None,
            "digest": type(digest) is not bytes or len(digest) != 32,
            "command_id": command_id is None or is_uuid(command_id) is None,
            "first_position": type(first) is not int or first < 1,
            "last_position": type(last) is not int or (type(first) is int and last < first - 1),
        }
        at = first if not malformed["first_position"] else None
        for column in (name for name, wrong in malformed.items() if wrong):
            self._findings.found(at, "COLUMN_MALFORMED", table="command_outcomes", column=column)
        hopeless = {name for name, wrong in malformed.items() if wrong} - {"digest"}
        if hopeless:
            return None
        outcome = _Outcome(cast(str, person_id), cast(str, command_id), first, last)
        derived = ids.command_id(self._ledger_id, UUID(outcome.person_id), cast(str, command_key))
        if outcome.command_id != str(derived):
            self._wrong(outcome, "OUTCOME_COMMAND_WRONG")
        return outcome
