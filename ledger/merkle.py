"""RFC 6962 hashing of the log, its proofs and its tiles. Bytes in, bytes out; reads no database, knows no fact.

    leaf  = SHA-256(0x00 | entry)
    node  = SHA-256(0x01 | left | right)
    entry = "volunteer-ledger/event/v1" 0x00 | stream id (16) | u64be version
            | u16be len(topic) | topic | SHA-256(state)

The entry commits to a digest of the stored bytes, so one fact can be proven to be in the log without being shown.

D[i:j] are the leaves from index i up to, but not with, j; k is the largest power of two below n (RFC 6962, 2.1):

    MTH({})   = SHA-256()
    MTH(D[1]) = leaf
    MTH(D[n]) = node(MTH(D[0:k]), MTH(D[k:n]))

Tiles and entry bundles are those of C2SP tlog-tiles. It imports one library that hashes, and what types need.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

ENTRY_LABEL = b"volunteer-ledger/event/v1\x00"
EMPTY_ROOT = sha256(b"").digest()
"""The root of a tree without leaves (RFC 6962, 2.1)."""
SIZE_MAX = 2**63 - 1
"""The largest tree: positions are signed 64-bit numbers in every database."""
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
"""The hashes of a full tile, and the entries of a full bundle."""
ENTRY_BYTES_MAX = 0xFFFF
PATH_CHARACTERS_MAX = 64
"""More than the longest path of a tile below ``SIZE_MAX``."""

HashAt = Callable[[int, int], bytes]
"""``hash_at(height, index)`` = MTH(D[index · 2^height : (index + 1) · 2^height]): a complete subtree, leaves at 0."""


class ProofError(ValueError):
    """A proof that cannot be made, or that does not hold; ``reason`` is a sentence and repeats nothing of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TileError(ValueError):
    """A path, a tile or a bundle that is not written as tlog-tiles says."""


def entry(stream_id: bytes, version: int, topic: bytes, state: bytes) -> bytes:
    """What the log says of one fact, from exactly the bytes that are stored."""
    if len(stream_id) != 16:
        raise ValueError("a stream id has 16 bytes")
    return (
        ENTRY_LABEL + stream_id + version.to_bytes(8, "big")
        + len(topic).to_bytes(2, "big") + topic + sha256(state).digest()
    )  # fmt: skip


def entry_hash(entry: bytes) -> bytes:
    """The 32-byte leaf of an entry (RFC 6962, 2.1)."""
    return sha256(b"\x00" + entry).digest()


def leaf_hash(stream_id: bytes, version: int, topic: bytes, state: bytes) -> bytes:
    """The 32-byte leaf of one fact, from exactly the bytes that are stored."""
    return entry_hash(entry(stream_id, version, topic, state))


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node over its two children (RFC 6962, 2.1)."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The roots of the full subtrees of a growing tree, largest first: all that appending needs (≤ 64 hashes).

    There is one subtree for every set bit of ``size``, so size and hashes determine the root.
    """

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: bytes = b"") -> None:
        if size < 0 or len(hashes) != 32 * size.bit_count():
            raise ValueError("a frontier holds one 32-byte hash for every set bit of its size")
        self.size = size
        self.hashes = [hashes[i : i + 32] for i in range(0, len(hashes), 32)]

    def append(self, leaf: bytes) -> None:
        """Add the leaf with index ``size``."""
        hashes, size = self.hashes, self.size
        while size & 1:  # two full subtrees of one height become one
            leaf = sha256(b"\x01" + hashes.pop() + leaf).digest()
            size >>= 1
        hashes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The tree head: the subtrees folded from the right (RFC 6962, 2.1)."""
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root

    def to_bytes(self) -> bytes:
        """The hashes, largest subtree first; with ``size`` this restores the frontier."""
        return b"".join(self.hashes)

    def copy(self) -> "Frontier":
        """An independent frontier of the same tree."""
        return Frontier(self.size, self.to_bytes())


# --- roots -----------------------------------------------------------------------------------------------------------


def root_of(hashes: bytes) -> bytes:
    """MTH(D[n]) over n leaf hashes written one after the other, as in a tile.

    Level by level: an odd last subtree waits for its sibling, which is where k divides the leaves.
    """
    if len(hashes) % 32:
        raise ValueError("a hash has 32 bytes")
    while len(hashes) > 32:
        paired = len(hashes) // 64 * 64
        nodes = [sha256(b"\x01" + hashes[i : i + 64]).digest() for i in range(0, paired, 64)]
        hashes = b"".join(nodes) + hashes[paired:]
    return hashes or EMPTY_ROOT


def tree_root(size: int, hash_at: HashAt) -> bytes:
    """MTH(D[size]) from stored hashes, at most one for every set bit of ``size``."""
    if not 0 <= size <= SIZE_MAX:
        raise ProofError("a tree has between 0 and 2^63 - 1 leaves")
    return _range_root(0, size, hash_at) if size else EMPTY_ROOT


def _range_root(start: int, end: int, hash_at: HashAt) -> bytes:
    """MTH(D[start:end]) of a range that the definition of MTH(D[n]) passes through."""
    count = end - start
    if count & (count - 1) == 0:
        return hash_at(count.bit_length() - 1, start // count)
    middle = start + _split(count)
    return node_hash(_range_root(start, middle, hash_at), _range_root(middle, end, hash_at))


def _split(count: int) -> int:
    """k: the largest power of two smaller than ``count``, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


# --- making proofs ---------------------------------------------------------------------------------------------------


def inclusion_proof(index: int, size: int, hash_at: HashAt) -> list[bytes]:
    """PATH(index, D[size]): the siblings on the way from the leaf up to the root (RFC 6962, 2.1.1).

    PATH(m, D[n]) = PATH(m, D[0:k]) : MTH(D[k:n])        for m < k
    PATH(m, D[n]) = PATH(m - k, D[k:n]) : MTH(D[0:k])    for m ≥ k
    """
    if not 0 <= index < size <= SIZE_MAX:
        raise ProofError("the index must be below the size of the tree, and that below 2^63")
    downwards, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            downwards.append(_range_root(middle, end, hash_at))
            end = middle
        else:
            downwards.append(_range_root(start, middle, hash_at))
            start = middle
    return downwards[::-1]


def consistency_proof(old_size: int, new_size: int, hash_at: HashAt) -> list[bytes]:
    """PROOF(old_size, D[new_size]): that the first tree is the beginning of the second (RFC 6962, 2.1.2).

    PROOF(m, D[n])          = SUBPROOF(m, D[n], true)
    SUBPROOF(m, D[m], true) = {}    SUBPROOF(m, D[m], false) = {MTH(D[m])}
    SUBPROOF(m, D[n], b)    = SUBPROOF(m, D[0:k], b) : MTH(D[k:n])            for m ≤ k
    SUBPROOF(m, D[n], b)    = SUBPROOF(m - k, D[k:n], false) : MTH(D[0:k])    for m > k
    """
    if not 0 < old_size <= new_size <= SIZE_MAX:
        raise ProofError("the old size must be at least 1 and not above the new size, and that below 2^63")
    downwards, start, end = [], 0, new_size
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            downwards.append(_range_root(middle, end, hash_at))
            end = middle
        else:
            downwards.append(_range_root(start, middle, hash_at))
            start = middle
    if start:  # b is false: the verifier does not hold MTH(D[start:end])
        downwards.append(_range_root(start, end, hash_at))
    return downwards[::-1]


# --- checking proofs -------------------------------------------------------------------------------------------------


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """``leaf`` is the leaf ``index`` of the tree with ``size`` and ``root``; ProofError otherwise (RFC 9162, 2.1.3.2).

    ``size`` and ``root`` must come from one checkpoint: a proof alone does not tell every two sizes apart.
    """
    if not (_are_integers(index, size) and 0 <= index < size <= SIZE_MAX):
        raise ProofError("the index must be below the size of the tree, and that below 2^63")
    inner, border = _shape(index, size - 1)
    _require_hashes(leaf, root)
    _require_proof(proof, inner + border)
    if _climbed(leaf, index, inner, proof) != root:
        raise ProofError("the proof does not lead from the leaf to the root")


def verify_consistency(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    """The new tree begins with all of the old one; ProofError otherwise (RFC 9162, 2.1.4.2).

    The proof is a subtree, the largest complete one that ends where the old tree ends, and its path. All of the path
    must lead to the new root, its left siblings alone to the old one. A subtree that is the old tree is left out.
    Each size and its root must come from one checkpoint. Of the empty tree there is nothing to prove.
    """
    if not (_are_integers(old_size, new_size) and 0 < old_size <= new_size <= SIZE_MAX):
        raise ProofError("the old size must be at least 1 and not above the new size, and that below 2^63")
    _require_hashes(old_root, new_root)
    if old_size == new_size:
        _require_proof(proof, 0)
        if old_root != new_root:
            raise ProofError("two trees of one size must have one root")
    else:
        _verify_growth(old_size, new_size, proof, old_root, new_root)


def _verify_growth(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> None:
    height = (old_size & -old_size).bit_length() - 1
    index, last = (old_size - 1) >> height, (new_size - 1) >> height
    inner, border = _shape(index, last)
    is_whole = index == 0  # the subtree is all of the old tree, so its root is known
    _require_proof(proof, inner + border + (0 if is_whole else 1))
    subtree, path = (old_root, proof) if is_whole else (proof[0], proof[1:])
    if _climbed_left(subtree, index, inner, path) != old_root:
        raise ProofError("the proof does not lead to the old root")
    if _climbed(subtree, index, inner, path) != new_root:
        raise ProofError("the proof does not lead to the new root")


def _shape(index: int, last: int) -> tuple[int, int]:
    """How many siblings a node has on its way up while apart from the last node of its height, and after that.

    Apart, there is one at every height; from where both ways meet, only left siblings, one for every set bit.
    """
    inner = (index ^ last).bit_length()
    return inner, (index >> inner).bit_count()


def _climbed(node: bytes, index: int, inner: int, path: Sequence[bytes]) -> bytes:
    """The root that the node and its siblings on the way up lead to."""
    for height, sibling in enumerate(path):
        is_left_sibling = height >= inner or index >> height & 1
        node = node_hash(sibling, node) if is_left_sibling else node_hash(node, sibling)
    return node


def _climbed_left(node: bytes, index: int, inner: int, path: Sequence[bytes]) -> bytes:
    """The root of the tree that ends with the node: its left siblings alone."""
    for height, sibling in enumerate(path):
        if height >= inner or index >> height & 1:
            node = node_hash(sibling, node)
    return node


def _are_integers(*numbers: object) -> bool:
    return all(type(number) is int for number in numbers)  # True is no index


def _require_hashes(*hashes: object) -> None:
    for one in hashes:
        if not isinstance(one, bytes) or len(one) != 32:
            raise ProofError("every hash must be 32 bytes")


def _require_proof(proof: object, length: int) -> None:
    if not isinstance(proof, (list, tuple)):
        raise ProofError("a proof is a list of hashes")
    if len(proof) != length:
        raise ProofError("the proof has too many or too few hashes for these sizes")
    _require_hashes(*proof)


# --- tiles -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """``width`` hashes in a row: MTH(D[(index · 256 + i) · 256^level : (index · 256 + i + 1) · 256^level]), i < width.

    A tile of a width below 256 is partial: the last of its level in a tree that ends there.
    """

    level: int
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if not (0 <= self.level <= 63 and self.index >= 0 and 1 <= self.width <= TILE_WIDTH):
            raise TileError("a tile has a level from 0 to 63, an index from 0 and a width from 1 to 256")
        if (self.index * TILE_WIDTH + self.width) << (TILE_HEIGHT * self.level) > SIZE_MAX:
            raise TileError("no tree is that large")

    @property
    def path(self) -> str:
        """``tile/<L>/<N>[.p/<W>]``: where the hashes are served."""
        return f"tile/{self.level}/{self._number}"

    @property
    def entries_path(self) -> str:
        """``tile/entries/<N>[.p/<W>]``: where the entries under a tile of level 0 are served."""
        if self.level:
            raise TileError("entries lie under tiles of level 0 only")
        return f"tile/entries/{self._number}"

    @property
    def _number(self) -> str:
        """``<N>[.p/<W>]``; 1234067 is x001/x234/067, so no file needs the name of a folder."""
        index, number = self.index, f"{self.index % 1000:03d}"
        while index >= 1000:
            index //= 1000
            number = f"x{index % 1000:03d}/{number}"
        return number if self.width == TILE_WIDTH else f"{number}.p/{self.width}"


def parse_tile_path(path: str) -> Tile:
    """The tile whose ``path`` this is; TileError for any other spelling."""
    level, _, number = path.removeprefix("tile/").partition("/")
    tile = _parsed(level, number)
    if tile.path != path:
        raise TileError("not the path of a tile")
    return tile


def parse_entries_path(path: str) -> Tile:
    """The tile of level 0 whose ``entries_path`` this is; TileError for any other spelling."""
    tile = _parsed("0", path.removeprefix("tile/entries/"))
    if tile.entries_path != path:
        raise TileError("not the path of an entry bundle")
    return tile


def _parsed(level: str, number: str) -> Tile:
    """Reads too much; the callers compare what was read, written again, with what they were given."""
    index, _, width = number.partition(".p/")
    parts = (level, index.replace("x", "").replace("/", ""), width or str(TILE_WIDTH))
    digits = "".join(parts)
    if len(digits) > PATH_CHARACTERS_MAX or not digits.isascii() or not all(map(str.isdigit, parts)):
        raise TileError("not the path of a tile")
    return Tile(*map(int, parts))


def new_tiles(old_size: int, new_size: int) -> Iterator[Tile]:
    """The full and partial tiles that a tree of ``new_size`` has and one of ``old_size`` has not, lower levels first.

    Level l of a tree of size s holds floor(s / 256^l) hashes; the last floor(…) mod 256 make its partial tile.
    """
    if not 0 <= old_size <= new_size <= SIZE_MAX:
        raise ValueError("a tree does not shrink")
    level, old, new = 0, old_size, new_size
    while new > old:
        for first in range(old // TILE_WIDTH * TILE_WIDTH, new, TILE_WIDTH):
            yield Tile(level, first // TILE_WIDTH, min(TILE_WIDTH, new - first))
        level, old, new = level + 1, old // TILE_WIDTH, new // TILE_WIDTH


ReadTile = Callable[[Tile], bytes]
"""The hashes of a tile, one after the other; a wider tile of that level and index will do, as it begins with them."""


def tile_hashes(tile: Tile, data: bytes) -> bytes:
    """The hashes of ``tile`` out of ``data``, which may be of a wider one; TileError if it holds something else."""
    if len(data) % 32 or not tile.width <= len(data) // 32 <= TILE_WIDTH:
        raise TileError(f"{tile.path} does not hold {tile.width} hashes")
    return data[: 32 * tile.width]


def grown_tiles(size: int, leaves: bytes, read_tile: ReadTile) -> Iterator[tuple[Tile, bytes]]:
    """``new_tiles`` with their hashes, when ``leaves`` (hashes one after the other) follow a tree of ``size``.

    Reads the old tree's partial tiles, one a level at most, and hashes every tile that becomes full once.
    """
    if size < 0 or len(leaves) % 32:
        raise ValueError("leaves of 32 bytes follow a tree of 0 or more")
    level = 0
    while leaves:
        index, width = divmod(size >> (TILE_HEIGHT * level), TILE_WIDTH)
        begun = Tile(level, index, width) if width else None
        row = (tile_hashes(begun, read_tile(begun)) if begun else b"") + leaves
        chunks = [row[i : i + 32 * TILE_WIDTH] for i in range(0, len(row), 32 * TILE_WIDTH)]
        for number, chunk in enumerate(chunks, start=index):
            yield Tile(level, number, len(chunk) // 32), chunk
        leaves = b"".join(root_of(chunk) for chunk in chunks if len(chunk) == 32 * TILE_WIDTH)
        level += 1


class TileHashes:
    """A ``HashAt`` of the tree with ``size`` that reads its tiles, each once: make one for a proof, or for a batch.

    What is read is not checked against a root; a proof made from wrong tiles does not hold.
    """

    def __init__(self, size: int, read_tile: ReadTile) -> None:
        self._size = size
        self._read_tile = read_tile
        self._read: dict[Tile, bytes] = {}

    def __call__(self, height: int, index: int) -> bytes:
        """The root of a complete subtree: 2^(height mod 8) neighbours in one tile, hashed together."""
        if height < 0 or index < 0 or (index + 1) << height > self._size:
            raise ValueError("no complete subtree of this tree")
        level, above = divmod(height, TILE_HEIGHT)
        tile_index, offset = divmod(index << above, TILE_WIDTH)
        hashes = self._tile(level, tile_index)
        return root_of(hashes[32 * offset : 32 * (offset + (1 << above))])

    def _tile(self, level: int, index: int) -> bytes:
        row = self._size >> (TILE_HEIGHT * level)
        tile = Tile(level, index, min(TILE_WIDTH, row - index * TILE_WIDTH))
        if tile not in self._read:
            self._read[tile] = tile_hashes(tile, self._read_tile(tile))
        return self._read[tile]


# --- entry bundles ---------------------------------------------------------------------------------------------------


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """The entries of a tile of level 0, each after its length: (u16be len(entry) | entry)*."""
    listed = list(entries)
    if any(len(one) > ENTRY_BYTES_MAX for one in listed):
        raise TileError("an entry has at most 65,535 bytes")
    return b"".join(len(one).to_bytes(2, "big") + one for one in listed)


def decode_bundle(bundle: bytes, width: int) -> list[bytes]:
    """The ``width`` entries of a bundle; TileError unless it holds them and nothing else."""
    entries, at = [], 0
    for _ in range(width):
        end = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
        entries.append(bundle[at + 2 : end])
        at = end
    if at != len(bundle):  # below it, bytes are left over; above it, the last entry was cut
        raise TileError(f"the bundle does not hold {width} whole entries and nothing else")
    return entries
