"""The tree a second time: slow, recursive, written from the words of RFC 6962 and RFC 9162; shares no code with ours.

Names are those of the RFCs, so that each function can be read beside its section. Only `hashlib` is imported.
"""

import hashlib


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Reference:
    """The entries of one log; ``D[a:b]`` of the RFC is written ``a, b``. What was hashed once is remembered."""

    def __init__(self, entries: list[bytes]) -> None:
        self.entries = entries
        self.known: dict[tuple[int, int], bytes] = {}

    def mth(self, a: int, b: int) -> bytes:
        """2.1: the Merkle Tree Hash of D[a:b]."""
        if (a, b) not in self.known:
            self.known[a, b] = self._mth(a, b)
        return self.known[a, b]

    def _mth(self, a: int, b: int) -> bytes:
        n = b - a
        if n == 0:
            return sha(b"")
        if n == 1:
            return sha(b"\x00" + self.entries[a])
        k = largest_power_of_two_smaller_than(n)
        return sha(b"\x01" + self.mth(a, a + k) + self.mth(a + k, b))

    def path(self, m: int, a: int, b: int) -> list[bytes]:
        """2.1.1: PATH(m, D[a:b]), the Merkle audit path of its leaf m."""
        n = b - a
        if n == 1:
            return []
        k = largest_power_of_two_smaller_than(n)
        if m < k:
            return [*self.path(m, a, a + k), self.mth(a + k, b)]
        return [*self.path(m - k, a + k, b), self.mth(a, a + k)]

    def proof(self, m: int, n: int) -> list[bytes]:
        """2.1.2: PROOF(m, D[n]), the Merkle consistency proof."""
        return self.subproof(m, 0, n, True)

    def subproof(self, m: int, a: int, b: int, is_complete: bool) -> list[bytes]:
        n = b - a
        if m == n:
            return [] if is_complete else [self.mth(a, b)]
        k = largest_power_of_two_smaller_than(n)
        if m <= k:
            return [*self.subproof(m, a, a + k, is_complete), self.mth(a + k, b)]
        return [*self.subproof(m - k, a + k, b, False), self.mth(a, a + k)]

    def tile(self, level: int, n: int, width: int) -> bytes:
        """tlog-tiles: MTH(D[(n * 256 + i) * 256**l : (n * 256 + i + 1) * 256**l]) for i from 0."""
        span = 256**level
        return b"".join(self.mth((n * 256 + i) * span, (n * 256 + i + 1) * span) for i in range(width))


def largest_power_of_two_smaller_than(n: int) -> int:
    k = 1
    while k * 2 < n:
        k = k * 2
    return k


def inclusion_holds(
    leaf: bytes, leaf_index: int, tree_size: int, inclusion_path: list[bytes], root_hash: bytes
) -> bool:
    """RFC 9162, 2.1.3.2, step by step."""
    if leaf_index >= tree_size:
        return False
    fn, sn, r = leaf_index, tree_size - 1, leaf
    for p in inclusion_path:
        if sn == 0:
            return False
        if fn % 2 == 1 or fn == sn:
            r = sha(b"\x01" + p + r)
            if fn % 2 == 0:
                while fn % 2 == 0 and fn != 0:
                    fn, sn = fn >> 1, sn >> 1
        else:
            r = sha(b"\x01" + r + p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root_hash


def consistency_holds(
    first: int, second: int, consistency_path: list[bytes], first_hash: bytes, second_hash: bytes
) -> bool:
    """RFC 9162, 2.1.4.2, step by step, for 0 < first < second."""
    if not consistency_path:
        return False
    path = list(consistency_path)
    if first.bit_count() == 1:
        path = [first_hash, *path]
    fn, sn = first - 1, second - 1
    while fn % 2 == 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn % 2 == 1 or fn == sn:
            fr, sr = sha(b"\x01" + c + fr), sha(b"\x01" + c + sr)
            if fn % 2 == 0:
                while fn % 2 == 0 and fn != 0:
                    fn, sn = fn >> 1, sn >> 1
        else:
            sr = sha(b"\x01" + sr + c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == first_hash and sr == second_hash
