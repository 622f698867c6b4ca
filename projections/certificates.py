"""The register of certificates, the keys that sign them, and what a correction touched (L17, L18, T35, T37)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, select

from ledger import events
from projections.facts import facts_of
from projections.hours import entries
from projections.moment import Moment, one
from projections.projection import Projection, latest

steps = facts_of(
    "certificate_steps",
    events.CertificateIssued,
    events.CertificatePrinted,
    events.CertificateSuperseded,
    events.CertificateRevoked,
)
key_steps = facts_of("issuer_key_steps", events.IssuerKeyRegistered, events.IssuerKeyRetired)


def _stated(column: str) -> Any:
    return latest(steps.c[column], steps.c.position).label(column)


def _count(event: type[events.Fact]) -> Any:
    return func.count().filter(steps.c.topic == event.TOPIC)


def _first(measured: ColumnElement[Any], event: type[events.Fact]) -> Any:
    return func.min(measured).filter(steps.c.topic == event.TOPIC)


STATED = (
    "certificate_number",
    "volunteer_id",
    "unit_id",
    "first_on",
    "last_on",
    "minutes",
    "services",
    "reversals",
    "as_of_position",
    "replaces_id",
    "replaced_by_id",
)
"""What facts say once, and never again otherwise."""

certificates = Projection(
    name="certificates",
    version=1,
    select=select(
        steps.c.certificate_id,
        *(_stated(column) for column in STATED),
        _first(steps.c.position, events.CertificateIssued).label("issued_position"),
        _first(steps.c.recorded_at, events.CertificateIssued).label("issued_at"),
        func.max(steps.c.recorded_at)
        .filter(steps.c.topic == events.CertificatePrinted.TOPIC)
        .label("printed_at"),
        _first(steps.c.recorded_at, events.CertificateSuperseded).label("superseded_at"),
        _first(steps.c.recorded_at, events.CertificateRevoked).label("revoked_at"),
        _count(events.CertificatePrinted).label("prints"),
    ).group_by(steps.c.certificate_id),
)
"""One row a certificate: what it states, and the moments of what became of it."""

issuer_keys = Projection(
    name="issuer_keys",
    version=1,
    select=select(
        key_steps.c.issuer_key_id,
        latest(key_steps.c.vkey, key_steps.c.position).label("vkey"),
        latest(key_steps.c.reason, key_steps.c.position).label("retired_for"),
        func.min(key_steps.c.recorded_at)
        .filter(key_steps.c.topic == events.IssuerKeyRegistered.TOPIC)
        .label("registered_at"),
        func.min(key_steps.c.recorded_at)
        .filter(key_steps.c.topic == events.IssuerKeyRetired.TOPIC)
        .label("retired_at"),
    ).group_by(key_steps.c.issuer_key_id),
)
"""The keys that sign, or signed, certificates."""

reversal_days = Projection(
    name="reversal_days",
    version=1,
    select=select(entries.c.volunteer_id, entries.c.served_on, func.count().label("reversals"))
    .where(entries.c.reverses_entry_id.is_not(None))
    .group_by(entries.c.volunteer_id, entries.c.served_on),
)
"""How many entries of a volunteer's day were ever reversed; days without one have no row."""

Status = Literal["valid", "corrected", "superseded", "revoked"]
register, reversed_days = certificates.table(), reversal_days.table()


def _reversals_now() -> ColumnElement[int]:
    """Reversals in the certificate's period by now."""
    days = reversed_days.c
    inside = and_(
        days.volunteer_id == register.c.volunteer_id,
        days.served_on >= register.c.first_on,
        days.served_on <= register.c.last_on,
    )
    return select(func.coalesce(func.sum(days.reversals), 0)).where(inside).scalar_subquery()


def _touched() -> ColumnElement[bool]:
    return _reversals_now() > register.c.reversals


def _status() -> ColumnElement[str]:
    return case(
        (register.c.revoked_at.is_not(None), literal("revoked")),
        (register.c.superseded_at.is_not(None), literal("superseded")),
        (_touched(), literal("corrected")),
        else_=literal("valid"),
    )


@dataclass(frozen=True)
class Which:
    """Which certificates: of these units, of one volunteer, of one status, only touched ones. None: no limit.

    Touched are all whose period a correction reached after they were issued (L17); corrected, those of them in force.
    """

    units: Collection[str] | None = None
    volunteer_id: str | None = None
    status: Status | None = None
    touched: bool = False


def listed(
    moment: Moment, which: Which, *, after: int | None = None, limit: int = 1000
) -> list[dict[str, Any]]:
    """Certificates with their ``status``, newest first; ``after`` is the ``issued_position`` of the last one before."""
    query = _shown()
    if which.units is not None:
        query = query.where(register.c.unit_id.in_(sorted(which.units)))
    if which.volunteer_id is not None:
        query = query.where(register.c.volunteer_id == which.volunteer_id)
    if which.status is not None:
        query = query.where(_status() == which.status)
    if which.touched:
        query = query.where(_touched())
    if after is not None:
        query = query.where(register.c.issued_position < after)
    return moment.rows(query.order_by(register.c.issued_position.desc()).limit(limit))


def numbered(moment: Moment, certificate_id: str) -> Mapping[str, Any] | None:
    """One certificate with its ``status``; None if there is none."""
    return one(moment.rows(_shown().where(register.c.certificate_id == certificate_id)))


def _shown() -> Select[Any]:
    visible = [register.c[name] for name in (*certificates.keys, *(m.name for m in certificates.measures))]
    return select(*visible, _status().label("status"), _reversals_now().label("reversals_now"))


def keys(moment: Moment) -> list[dict[str, Any]]:
    """Every key that was registered, oldest first."""
    table = issuer_keys.table()
    visible = [table.c[name] for name in (*issuer_keys.keys, *(m.name for m in issuer_keys.measures))]
    return moment.rows(select(*visible).order_by(table.c.registered_at, table.c.issuer_key_id))
