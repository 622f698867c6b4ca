"""The facts, one after the other: positions, versions, written forms, recording times and leaf hashes."""

from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from ledger.audit.forms import is_uuid, written_forms
from ledger.audit.growth import Growth
from ledger.audit.outcomes import Outcomes
from ledger.audit.report import Findings
from ledger.audit.sharing import examined
from ledger.audit.tree import TreeAudit
from ledger.codec import EVENTS_BY_TOPIC, decode, instant_text
from ledger.errors import UnreadableFactError
from ledger.merkle import Frontier, leaf_hash
from ledger.plain import ID, NOT_PLAIN, STAMP, Row

_NOWHERE = UUID(int=0)


class Facts:
    """Takes facts in the order of positions and says of each what does not hold."""

    def __init__(
        self,
        created_at: str,
        text: Callable[[object], str | None],
        outcomes: Outcomes | None,
        tree: TreeAudit | None,
        growth: Growth | None,
        findings: Findings,
    ) -> None:
        self.last = 0
        self.newest = created_at
        self.frontier = Frontier()
        self._states_read = 0
        self._versions: dict[str, int] = {}
        self._forms = written_forms()
        self._text = text
        self._outcomes = outcomes
        self._tree = tree
        self._growth = growth
        self._findings = findings

    @property
    def checks(self) -> dict[str, int]:
        facts = self.frontier.size
        return {
            "facts": facts,
            "streams": len(self._versions),
            "states": self._states_read,
            "leaf_hashes": facts,
        }

    def take_all(self, rows: Sequence[Row], stamps: str) -> None:
        """Check the next facts, of which `plain.stamps` has said which are sound in themselves."""
        take, take_plain = self.take, self._take_plain
        at = 0
        for row in rows:
            stamp = stamps[at : at + STAMP]
            at += STAMP
            if stamp == NOT_PLAIN:
                take(row)
            else:
                take_plain(row, stamp)

    def _take_plain(self, row: Row, stamp: str) -> None:
        """Check the place of a fact that is sound in itself."""
        position, stream_id, version, _, _, leaf = row
        if position == self.last + 1 and type(position) is int:
            self.last = position
        else:
            self._check_position(position)
        stream_text = self._text(stream_id)
        if stream_text is not None and self._versions.get(stream_text) == version - 1:
            self._versions[stream_text] = version
        else:  # a new stream, or a version that is not its next
            self._check_stream(stream_text, version)
        self._check_order(stamp[:ID], stamp[ID : 2 * ID], stamp[2 * ID :])
        self._append(leaf)

    def take(self, row: Row) -> None:
        """Check the next fact, all of it."""
        position, stream_id, version, topic, state, leaf = row
        self._check_position(position)
        stream_text = self._column("stream_id", self._text(stream_id))
        topic_text = self._column("topic", self._text(topic))
        state_text = self._column("state", self._text(state))
        if type(version) is not int:
            version = self._column("version", None)
        raw_id = self._check_stream(stream_text, version)
        self._check_state(topic_text, state_text)
        if raw_id is None or version is None or topic_text is None or state_text is None:
            self._append(leaf if type(leaf) is bytes and len(leaf) == 32 else bytes(32))
        else:
            self._check_leaf(leaf, raw_id, version, topic_text.encode(), state_text.encode())

    def _column(self, column: str, value: str | None) -> str | None:
        if value is None:
            self._findings.found(self.last, "COLUMN_MALFORMED", table="facts", column=column)
        return value

    def _check_position(self, position: object) -> None:
        if position == self.last + 1 and type(position) is int:
            self.last = position
        elif type(position) is int and position > self.last:
            first = self.last + 1
            self._findings.found(first, "POSITIONS_MISSING", first=first, last=position - 1)
            self.last = position
        else:
            self._findings.found(position if type(position) is int else None, "POSITION_WRONG")

    def _check_stream(self, stream_id: str | None, version: int | None) -> bytes | None:
        """The stream's 16 bytes, or None if its id is malformed; only well-formed ids are counted on."""
        if stream_id is None:
            return None
        before = self._versions.get(stream_id)
        if before is None:
            if is_uuid(stream_id) is None:
                self._column("stream_id", None)
                return None
            before = 0
        if version != before + 1:
            self._findings.found(self.last, "VERSION_WRONG", expected=before + 1)
        self._versions[stream_id] = before + 1 if version is None else version
        return bytes.fromhex(stream_id.replace("-", ""))

    def _check_state(self, topic: str | None, state: str | None) -> None:
        stamp = self._stamp(topic, state) if topic is not None and state is not None else None
        if stamp is None:
            if self._outcomes is not None:
                self._outcomes.fact(self.last, None, None)
            return
        self._check_order(*stamp)

    def _check_order(self, caller_id: str, command_id: str, recorded_at: str) -> None:
        self._states_read += 1
        if recorded_at < self.newest:
            self._findings.found(self.last, "RECORDED_BACKWARDS")
        else:
            self.newest = recorded_at
        if self._outcomes is not None:
            self._outcomes.fact(self.last, command_id, caller_id)

    def _stamp(self, topic: str, state: str) -> tuple[str, str, str] | None:
        """Caller, command and recording time of a sound state; what no written form covers is decoded in full."""
        form = self._forms.get(topic)
        match = form.fullmatch(state) if form is not None else None
        if match is not None:
            caller_id, command_id, recorded_at = match.groups()
            return caller_id, command_id, recorded_at
        if topic not in EVENTS_BY_TOPIC:
            self._findings.found(self.last, "TOPIC_UNKNOWN")
            return None
        try:
            fact = decode(topic, _NOWHERE, 1, state.encode())
        except (
            Exception
        ) as error:  # decoding, upcasts included, meets values that nobody wrote: any failure is one
            problem = error.details["problem"] if isinstance(error, UnreadableFactError) else "not valid"
            self._findings.found(self.last, "STATE_UNREADABLE", problem=problem)
            return None
        return str(fact.caller_id), str(fact.command_id), instant_text(fact.recorded_at)

    def _check_leaf(self, leaf: object, stream_id: bytes, version: int, topic: bytes, state: bytes) -> None:
        try:
            computed = leaf_hash(stream_id, version, topic, state)
        except OverflowError:  # a version or a topic that no entry has room for
            computed = bytes(32)
        if leaf != computed or type(leaf) is not bytes:
            self._findings.found(self.last, "LEAF_HASH_WRONG")
        self._append(computed)

    def _append(self, leaf: bytes) -> None:
        self.frontier.append(leaf)
        if self._tree is not None:
            self._tree.leaf(leaf, self.frontier)
        if self._growth is not None:
            self._growth.leaf(leaf, self.frontier)


def read_facts(
    batches: Iterable[Sequence[Row]],
    facts: Facts,
    expected: int,
    progress: Callable[[int, int], None] | None,
    helpers: int,
) -> None:
    """Check all facts; ``helpers`` processes share in what can be said of each by itself."""
    for rows, stamps in examined(batches, helpers):
        facts.take_all(rows, stamps)
        if progress is not None:
            done = facts.frontier.size
            progress(done, max(done, expected))
