"""What proves that nothing signed was changed: checkpoints, tiles and proofs.

Under ``/log`` as C2SP tlog-tiles has it, for anybody, so that any existing tool can mirror and watch the log: entries
hold ids, topics and digests of states, never a state. Under ``/v1/integrity`` the same as JSON, by position.
"""

from base64 import b64encode
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from api.deps import caller, parts_of
from api.identity import require_overseer
from api.parts import Parts
from ledger.errors import LedgerDamagedError, NotFoundError, NotSignedYetError, UnknownCheckpointError
from ledger.groupcommit import Row
from ledger.log import LedgerLog
from ledger.merkle import (
    TILE_WIDTH,
    Tile,
    TileError,
    encode_bundle,
    entry,
    parse_entries_path,
    parse_tile_path,
)
from ledger.proofs import InclusionProof
from ledger.rules import Caller
from ledger.tree import Published, TreeStore

IMMUTABLE = "public, max-age=31536000, immutable"
PARTIAL = "public, max-age=60"
NEWEST = "public, no-cache"

log_router = APIRouter(prefix="/log", tags=["log"])
router = APIRouter(prefix="/integrity", tags=["integrity"])


def tree_of(parts: Annotated[Parts, Depends(parts_of)], request: Request) -> TreeStore:
    """The published tree; one store an application, which remembers that its tables are there."""
    if not hasattr(request.app.state, "tree"):
        request.app.state.tree = TreeStore(parts.log)
    store: TreeStore = request.app.state.tree
    return store


Who = Annotated[Caller, Depends(caller)]
Ledger = Annotated[Parts, Depends(parts_of)]
Tree = Annotated[TreeStore, Depends(tree_of)]
Size = Annotated[
    int | None, Query(ge=1, le=2**53, description="A published checkpoint's; the newest if left out.")
]


# --- tlog-tiles ------------------------------------------------------------------------------------------------------


@log_router.get("/checkpoint", response_class=Response)
def checkpoint_note(tree: Tree) -> Response:
    """The newest checkpoint, a signed note (c2sp.org/tlog-checkpoint)."""
    return Response(
        _newest(tree).note, media_type="text/plain; charset=utf-8", headers={"Cache-Control": NEWEST}
    )


@log_router.get("/tile/{path:path}", include_in_schema=False)
def tile_or_entries(path: str, tree: Tree) -> Response:
    """A tile or an entry bundle of the newest published tree (c2sp.org/tlog-tiles)."""
    try:
        if path.startswith("entries/"):
            tile = parse_entries_path(f"tile/{path}")
            data = _bundle(tree, tile)
        else:
            tile = parse_tile_path(f"tile/{path}")
            data = tree.tile(tile)
    except TileError:
        data = None
    if data is None:
        raise NotFoundError(what="such tile")
    caching = IMMUTABLE if tile.width == TILE_WIDTH else PARTIAL
    return Response(data, media_type="application/octet-stream", headers={"Cache-Control": caching})


def _bundle(tree: TreeStore, tile: Tile) -> bytes | None:
    if tree.tile(tile) is None:
        return None
    first = tile.index * TILE_WIDTH + 1
    return encode_bundle(map(entry_of, tree.log.read(first, first + tile.width - 1)))


# --- JSON ------------------------------------------------------------------------------------------------------------


@router.get("/checkpoint")
def checkpoint(_who: Who, tree: Tree, size: Size = None) -> dict[str, Any]:
    """A published checkpoint with its note."""
    return _checkpoint_json(_published(tree, size))


@router.get("/inclusion/{position}")
def inclusion(position: int, who: Who, parts: Ledger, tree: Tree, size: Size = None) -> dict[str, Any]:
    """That a fact lies under a checkpoint: its entry, the path to the root, and all of it as one text (tlog-proof)."""
    row = _row(parts.log, position)
    if row is None or row.stream_id != who.person_id:
        require_overseer(who)
    if row is None:
        raise NotFoundError(what=f"fact at position {position}")
    proof, published = proof_of(tree, row, size)
    return {
        "position": position,
        "leaf_index": proof.index,
        "leaf_hash": row.leaf_hash.hex(),
        "entry": b64encode(proof.entry).decode(),
        "path": [one.hex() for one in proof.path],
        "checkpoint": _checkpoint_json(published),
        "proof": proof.to_text(),
    }


@router.get("/consistency")
def consistency(
    _who: Who,
    tree: Tree,
    old: Annotated[
        int | None, Query(alias="from", ge=1, le=2**53, description="The older size; the first if left out.")
    ] = None,
    new: Annotated[
        int | None, Query(alias="to", ge=1, le=2**53, description="The newer size; the newest if left out.")
    ] = None,
) -> dict[str, Any]:
    """That the tree of one checkpoint is the beginning of that of another."""
    newer = _published(tree, new)
    older = (tree.first() or newer) if old is None else _published(tree, old)
    if older.size > newer.size:
        raise UnknownCheckpointError(size=older.size)
    try:
        path = tree.consistency_proof(older.size, newer.size)
    except TileError as error:
        raise LedgerDamagedError(position=newer.size, problem=str(error)) from None
    return {
        "from": _checkpoint_json(older),
        "to": _checkpoint_json(newer),
        "path": [one.hex() for one in path],
    }


def proof_of(tree: TreeStore, row: Row, size: int | None) -> tuple[InclusionProof, Published]:
    """A fact's proof under a checkpoint. UNKNOWN_CHECKPOINT, NOT_SIGNED_YET; LEDGER_DAMAGED if its tiles are gone."""
    published = _published(tree, size)
    if row.position > published.size:
        raise NotSignedYetError(position=row.position, size=published.size)
    try:
        path = tree.inclusion_proof(row.position - 1, published.size)
    except TileError as error:
        raise LedgerDamagedError(position=row.position, problem=str(error)) from None
    return InclusionProof(entry_of(row), row.position - 1, tuple(path), published.note), published


def entry_of(row: Row) -> bytes:
    """What the log says of a fact."""
    return entry(row.stream_id.bytes, row.version, row.topic.encode(), row.state)


def fact_at(log: LedgerLog, position: int) -> Row:
    """The fact at a position. NOT_FOUND."""
    row = _row(log, position)
    if row is None:
        raise NotFoundError(what=f"fact at position {position}")
    return row


def _row(log: LedgerLog, position: int) -> Row | None:
    return next(iter(log.read(position, position)), None) if 0 < position < 2**53 else None


def _published(tree: TreeStore, size: int | None) -> Published:
    if size is None:
        return _newest(tree)
    found = tree.at(size)
    if found is None:
        raise UnknownCheckpointError(size=size)
    return found


def _newest(tree: TreeStore) -> Published:
    found = tree.latest()
    if found is None:
        raise NotFoundError(what="checkpoint: nothing is signed yet")
    return found


def _checkpoint_json(published: Published) -> dict[str, Any]:
    return {
        "size": published.size,
        "root": published.root.hex(),
        "signed_at": published.signed_at,
        "note": published.note,
    }
