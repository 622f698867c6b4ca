"""An office that issues certificates over a small invented log: facts, a tree, signed checkpoints, and records."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid5

from api.certificate_pdf import CLASSES, KINDS, ServiceLine, Sheet
from ledger import merkle
from ledger.certificates import Claim, Holder, ProvenFact, Record, number_of
from ledger.checkpoint import Algorithm, Checkpoint, SignerKey, sign_checkpoint
from ledger.codec import canonical_json
from ledger.ids import certificate_id
from ledger.proofs import InclusionProof

LEDGER_ID = UUID("7b1d2f0a-90c4-4a55-8f7c-3f6f5e1f0b22")
ORIGIN = "ledger.example/gangu"
LOG_KEY = SignerKey(ORIGIN, bytes(range(32)))
ISSUER_KEY = SignerKey("certificates.example/gangu", bytes(range(32, 64)))
WITNESS = SignerKey("witness.example/1", bytes(range(64, 96)), Algorithm.COSIGNATURE_V1)
STRANGER = SignerKey("certificates.example/gangu", bytes(range(96, 128)))
NUMBER = number_of(bytes(range(100, 108)), 2026)
HOLDER = Holder(name="王玥喆", id_number="11010519491231002X", salt="0f" * 16)
"""The identity number is the example of GB 11643: nobody's."""
SIGNED_SECONDS = 1_795_000_000


@dataclass(frozen=True)
class Stored:
    """A fact as the log holds it."""

    stream_id: UUID
    topic: str
    state: bytes
    version: int = 1

    @property
    def entry(self) -> bytes:
        return merkle.entry(self.stream_id.bytes, self.version, self.topic.encode(), self.state)


def issued_state(**other: Any) -> bytes:
    """The stored text of a `certificate.issued`."""
    fields = {
        "as_of_position": 18,
        "caller_id": LEDGER_ID,
        "certificate_number": NUMBER,
        "class_version": 1,
        "command_id": LEDGER_ID,
        "commitment": HOLDER.commitment,
        "first_on": date(2026, 1, 1),
        "happened_at": datetime(2026, 11, 23, 10, tzinfo=UTC),
        "holder": "s1.QUJD",
        "last_on": date(2026, 11, 20),
        "minutes": 750,
        "minutes_backfilled": 120,
        "minutes_confirmed": 600,
        "minutes_imported": 0,
        "minutes_machine": 30,
        "recorded_at": datetime(2026, 11, 23, 16, 30, tzinfo=UTC),
        "replaces_id": None,
        "reversals": 0,
        "rulebook_version": 1,
        "services": 6,
        "unit_id": LEDGER_ID,
        "volunteer_id": LEDGER_ID,
        "volunteer_number": "V-00472",
    }
    return canonical_json(fields | other)


def registered_state(vkey: str) -> bytes:
    """The stored text of an `issuer_key.registered`."""
    return canonical_json({"class_version": 1, "vkey": vkey})


@dataclass
class Office:
    """A log of some facts: the issuer's key is the third of them, the certificate the last."""

    issued: Stored = field(
        default_factory=lambda: Stored(
            certificate_id(LEDGER_ID, NUMBER), "certificate.issued", issued_state()
        )
    )
    registered: Stored = field(
        default_factory=lambda: Stored(
            uuid5(LEDGER_ID, "issuer key"),
            "issuer_key.registered",
            registered_state(ISSUER_KEY.verifier_key.to_text()),
        )
    )
    log_key: SignerKey = LOG_KEY
    origin: str = ORIGIN

    def __post_init__(self) -> None:
        others = [Stored(uuid5(LEDGER_ID, str(n)), "unit.renamed", b"{}") for n in range(16)]
        self.facts = [*others[:2], self.registered, *others[2:], self.issued]

    def note(self) -> str:
        """A checkpoint over all facts, cosigned by one witness."""
        leaves = b"".join(merkle.entry_hash(one.entry) for one in self.facts)
        checkpoint = Checkpoint(self.origin, len(self.facts), merkle.root_of(leaves))
        note = sign_checkpoint(checkpoint, [self.log_key])
        return note.with_signatures([WITNESS.cosign(note.text, SIGNED_SECONDS)]).to_bytes().decode()

    def proven(self, fact: Stored) -> ProvenFact:
        index = self.facts.index(fact)
        leaves = [merkle.entry_hash(one.entry) for one in self.facts]
        path = merkle.inclusion_proof(
            index,
            len(leaves),
            lambda height, at: merkle.root_of(b"".join(leaves[at << height : at + 1 << height])),
        )
        return ProvenFact.of(fact.state, InclusionProof(fact.entry, index, tuple(path), self.note()))

    def record(self, key: SignerKey = ISSUER_KEY, *, with_id_number: bool = False, **claimed: Any) -> Record:
        """The record of the certificate; ``claimed`` is what the issuer claims instead of what the fact says."""
        claim = Claim.of_state(LEDGER_ID, self.issued.state)
        return Record(
            claim=Claim(**{**claim.__dict__, **claimed}).sign(key),
            holder=HOLDER.shown(with_id_number),
            issued=self.proven(self.issued),
            issuer_key=self.proven(self.registered),
        )


def sheet(count: int = 6, **other: Any) -> Sheet:
    """A certificate's sheet with this many lines."""
    kinds, classes = list(KINDS), list(CLASSES)
    lines = tuple(
        ServiceLine(
            served_on=date(2026, 1 + n % 10, 1 + n % 28),
            activity_kind=kinds[n % 9],
            unit_name=("六峰镇新时代文明实践所", "大像山镇五里铺村新时代文明实践站")[n % 2],
            minutes=150 - n % 7 * 15,
            source_class=classes[n % 4],
            position=1_800 + n * 37,
        )
        for n in range(count)
    )
    by_class = {name: sum(one.minutes for one in lines if one.source_class == name) for name in classes}
    record = Office().record()
    said: dict[str, Any] = {
        "number": NUMBER,
        "county_name": "甘谷县新时代文明实践中心",
        "holder_name": HOLDER.name,
        "id_number_masked": "110105**********2X",
        "volunteer_number": "V-00472",
        "first_on": date(2026, 1, 1),
        "last_on": date(2026, 11, 20),
        "issued_on": date(2026, 11, 24),
        "services": count,
        "minutes": sum(by_class.values()),
        "minutes_by_class": by_class,
        "lines": lines,
        "lines_left_out": 0,
        "issuer_name": "六峰镇新时代文明实践所",
        "check_url": f"https://wenming.example/verify/{NUMBER}#{record.claim}",
        "origin": ORIGIN,
        "tree_size": 18_944,
        "root_hex": "9f2c4e61" * 8,
        "as_of_position": 18_931,
        "as_of_at": datetime(2026, 11, 23, 10, 0, tzinfo=UTC),
        "replaces_number": None,
        "record": record.to_bytes(),
    }
    return Sheet(**(said | other))
