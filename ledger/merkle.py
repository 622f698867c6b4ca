"""RFC 6962 hashing of the log. Bytes in, bytes out; imports nothing but hashlib.

    leaf  = SHA-256(0x00 | entry)
    node  = SHA-256(0x01 | left | right)
    entry = "volunteer-ledger/event/v1" 0x00 | stream id (16) | u64be version
            | u16be len(topic) | topic | SHA-256(state)

The entry commits to a digest of the stored bytes, so one fact can be proven to be in the log without being shown.
"""

from hashlib import sha256

ENTRY_LABEL = b"volunteer-ledger/event/v1\x00"
EMPTY_ROOT = sha256(b"").digest()
"""The root of a tree without leaves (RFC 6962, 2.1)."""


def leaf_hash(stream_id: bytes, version: int, topic: bytes, state: bytes) -> bytes:
    """The 32-byte leaf of one fact, from exactly the bytes that are stored."""
    if len(stream_id) != 16:
        raise ValueError("a stream id has 16 bytes")
    return sha256(
        b"\x00" + ENTRY_LABEL + stream_id + version.to_bytes(8, "big")
        + len(topic).to_bytes(2, "big") + topic + sha256(state).digest()
    ).digest()  # fmt: skip


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
