"""The keys that sign certificates: which sign in the ledger's name is a fact, proven like any other (F25)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from ledger import ids
from ledger.commands import Command, RegisterIssuerKey, RetireIssuerKey
from ledger.errors import AlreadyExistsError, NotAllowedNowError
from ledger.events import Fact, IssuerKeyRegistered, IssuerKeyRetired
from ledger.rules.case import Case


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A key as it stands; a retired one is never taken up again."""

    id: UUID
    version: int
    vkey: str
    retired: bool = False
    stream: Literal["issuer_key"] = "issuer_key"

    def require_in_use(self) -> None:
        """NOT_ALLOWED_NOW for a retired key."""
        if self.retired:
            raise NotAllowedNowError(status="retired", action="sign", allowed=[])


def register(command: RegisterIssuerKey, case: Case) -> list[Fact]:
    """By an administrator; a key that was registered once is not registered again, retired or not."""
    case.require_role("admin")
    key_id = ids.issuer_key_id(case.ledger_id, command.vkey)
    if case.exists(key_id):
        raise AlreadyExistsError(what="issuer key", id=key_id)
    return [IssuerKeyRegistered(**case.stamp(key_id), vkey=command.vkey)]


def retire(command: RetireIssuerKey, case: Case) -> list[Fact]:
    """By an administrator; retiring a key twice changes nothing."""
    case.require_role("admin")
    key = case.issuer_key(command.issuer_key_id)
    return [] if key.retired else [IssuerKeyRetired(**case.stamp(key.id), reason=command.reason)]


def evolve(state: IssuerKey | None, fact: Fact) -> IssuerKey:
    if isinstance(fact, IssuerKeyRegistered):
        return IssuerKey(fact.originator_id, fact.originator_version, fact.vkey)
    assert state is not None
    return replace(
        state, version=fact.originator_version, retired=state.retired or isinstance(fact, IssuerKeyRetired)
    )


DECIDERS: dict[type[Command], Callable[[Any, Case], list[Fact]]] = {
    RegisterIssuerKey: register,
    RetireIssuerKey: retire,
}
