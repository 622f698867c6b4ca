"""Hashing, proofs and tiles: against published vectors, a slow reference, and everything a forger may try.

`vectors.json` holds the eight leaves that Certificate Transparency published for RFC 6962 with the roots and proofs
over them, and paths as C2SP tlog-tiles spells them and as it does not.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger import merkle
from ledger.merkle import Frontier, HashAt, ProofError, Tile, TileError, TileHashes
from tests.merkle.reference import Reference, consistency_holds, inclusion_holds

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text("ascii"))
SEED = 20_261_123
SMALL = 130
"""Every size up to here is tried: past one power of two and past 2^7 + 1."""
LARGE = 70_000
"""The size of the example in tlog-tiles: 273 full tiles and three partial ones."""
MUTATIONS = [10_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1_800)])]


def from_hex(values: list[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in values]


def entries(count: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(count)]


def subtrees(reference: Reference, size: int) -> HashAt:
    """The complete subtrees of a tree, and nothing beyond it."""

    def hash_at(height: int, index: int) -> bytes:
        assert 0 <= (index + 1) << height <= size
        return reference.mth(index << height, (index + 1) << height)

    return hash_at


@pytest.fixture(scope="module")
def small() -> Reference:
    return Reference(entries(SMALL))


@pytest.fixture(scope="module")
def large() -> Reference:
    return Reference(entries(LARGE))


@pytest.fixture(scope="module")
def stored(large: Reference) -> dict[Tile, bytes]:
    """The tiles of the large tree, full and partial, as they were written while it grew by uneven steps."""
    tiles: dict[Tile, bytes] = {}
    random, size = Random(SEED), 0
    while size < LARGE:
        step = min(random.choice([1, 2, 17, 255, 256, 257, 4_000]), LARGE - size)
        leaves = b"".join(large.mth(i, i + 1) for i in range(size, size + step))
        grown = list(merkle.grown_tiles(size, leaves, tiles.__getitem__))
        assert [tile for tile, _ in grown] == list(merkle.new_tiles(size, size + step))
        tiles.update(grown)
        size += step
    return tiles


def widest(tiles: dict[Tile, bytes]) -> Callable[[Tile], bytes]:
    """Read as from a table that keeps one tile for each level and index: the last that was written."""
    kept = {(tile.level, tile.index): data for tile, data in sorted(tiles.items())}
    return lambda tile: kept[tile.level, tile.index]


# --- entries and leaves ----------------------------------------------------------------------------------------------


def test_an_entry_is_label_stream_version_topic_and_the_digest_of_its_state() -> None:
    made = merkle.entry(bytes(range(16)), 258, b"hours.reported", b'{"minutes":90}')
    assert made == (
        b"volunteer-ledger/event/v1\x00"
        + bytes(range(16))
        + b"\0\0\0\0\0\0\1\2"
        + b"\0\x0ehours.reported"
        + hashlib.sha256(b'{"minutes":90}').digest()
    )


def test_a_leaf_is_the_hash_of_zero_and_the_entry() -> None:
    fact = (bytes(16), 1, b"topic", b"state")
    expected = hashlib.sha256(b"\0" + merkle.entry(*fact)).digest()
    assert merkle.leaf_hash(*fact) == merkle.entry_hash(merkle.entry(*fact)) == expected


@pytest.mark.parametrize("stream_id", [b"", bytes(15), bytes(17)])
def test_a_stream_id_has_sixteen_bytes(stream_id: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        merkle.leaf_hash(stream_id, 1, b"topic", b"state")


# --- published vectors -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> list[bytes]:
    """The leaf hashes of the eight published leaves."""
    return [merkle.entry_hash(leaf) for leaf in from_hex(VECTORS["leaves"])]


def test_the_published_roots(published: list[bytes]) -> None:
    roots = from_hex(VECTORS["roots"])
    assert len(roots) == 9
    assert [merkle.root_of(b"".join(published[:size])) for size in range(9)] == roots


def test_the_published_roots_as_the_tree_grows(published: list[bytes]) -> None:
    frontier = Frontier()
    for leaf, (before, after) in zip(published, pairwise(VECTORS["roots"]), strict=True):
        assert frontier.root().hex() == before
        frontier.append(leaf)
        assert frontier.root().hex() == after


def test_the_reference_agrees_with_the_published_roots() -> None:
    reference = Reference(from_hex(VECTORS["leaves"]))
    assert [reference.mth(0, size).hex() for size in range(9)] == VECTORS["roots"]


@pytest.mark.parametrize("vector", VECTORS["inclusion"], ids=lambda v: f"{v['index']} of {v['size']}")
def test_the_published_inclusion_proofs(vector: dict[str, Any], published: list[bytes]) -> None:
    index, size, proof = vector["index"], vector["size"], from_hex(vector["proof"])
    root = bytes.fromhex(VECTORS["roots"][size])
    hash_at = subtrees(Reference(from_hex(VECTORS["leaves"])), size)
    assert merkle.inclusion_proof(index, size, hash_at) == proof
    merkle.verify_inclusion(published[index], index, size, proof, root)


@pytest.mark.parametrize("vector", VECTORS["consistency"], ids=lambda v: f"{v['old']} in {v['new']}")
def test_the_published_consistency_proofs(vector: dict[str, Any]) -> None:
    old, new, proof = vector["old"], vector["new"], from_hex(vector["proof"])
    old_root, new_root = (bytes.fromhex(VECTORS["roots"][size]) for size in (old, new))
    hash_at = subtrees(Reference(from_hex(VECTORS["leaves"])), new)
    assert merkle.consistency_proof(old, new, hash_at) == proof
    merkle.verify_consistency(old, new, proof, old_root, new_root)


# --- every small tree against the reference --------------------------------------------------------------------------


def test_roots_of_every_small_tree(small: Reference) -> None:
    frontier = Frontier()
    for size in range(SMALL + 1):
        leaves = b"".join(small.mth(i, i + 1) for i in range(size))
        expected = small.mth(0, size)
        assert merkle.root_of(leaves) == merkle.tree_root(size, subtrees(small, size)) == expected
        assert frontier.root() == Frontier(size, frontier.to_bytes()).root() == expected
        if size < SMALL:
            frontier.append(small.mth(size, size + 1))


def test_inclusion_in_every_small_tree(small: Reference) -> None:
    for size in range(1, SMALL + 1):
        hash_at, root = subtrees(small, size), small.mth(0, size)
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, hash_at)
            assert proof == small.path(index, 0, size)
            merkle.verify_inclusion(small.mth(index, index + 1), index, size, proof, root)


def test_consistency_of_every_two_small_trees(small: Reference) -> None:
    for new in range(1, SMALL + 1):
        hash_at, root = subtrees(small, new), small.mth(0, new)
        for old in range(1, new + 1):
            proof = merkle.consistency_proof(old, new, hash_at)
            assert proof == small.proof(old, new)
            merkle.verify_consistency(old, new, proof, small.mth(0, old), root)


def test_the_frontier_is_the_left_siblings_of_the_next_leaf(small: Reference) -> None:
    frontier = Frontier()
    for size in range(SMALL - 1):
        frontier.append(small.mth(size, size + 1))
        path = small.path(size + 1, 0, size + 2)
        assert frontier.hashes == path[::-1]


def test_a_copied_frontier_grows_alone() -> None:
    frontier = Frontier(1, bytes(32))
    copy = frontier.copy()
    copy.append(b"\1" * 32)
    assert (frontier.size, frontier.to_bytes(), copy.size) == (1, bytes(32), 2)


@pytest.mark.parametrize(
    ("size", "hashes"), [(-1, bytes(32)), (3, bytes(32)), (0, bytes(32)), (1, bytes(31))]
)
def test_a_frontier_has_a_hash_for_every_bit_of_its_size(size: int, hashes: bytes) -> None:
    with pytest.raises(ValueError, match="every set bit"):
        Frontier(size, hashes)


def test_hashes_have_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        merkle.root_of(bytes(33))


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 1), (1, 1), (0, -1), (0, 2**63)])
def test_no_inclusion_proof_is_made_of_a_leaf_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ProofError, match="below the size"):
        merkle.inclusion_proof(index, size, lambda _height, _index: bytes(32))


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 1), (-1, 1), (2, 1), (1, 2**63)])
def test_no_consistency_proof_is_made_of_a_tree_that_shrank_or_was_empty(old: int, new: int) -> None:
    with pytest.raises(ProofError, match="at least 1"):
        merkle.consistency_proof(old, new, lambda _height, _index: bytes(32))


@pytest.mark.parametrize("size", [-1, 2**63])
def test_no_root_of_an_impossible_size(size: int) -> None:
    with pytest.raises(ProofError, match=r"between 0 and 2\^63 - 1"):
        merkle.tree_root(size, lambda _height, _index: bytes(32))


def test_proofs_at_the_largest_size() -> None:
    """With one made-up hash for every complete subtree of a height: 2^63 - 1 leaves need no more steps than 63."""
    heights = [bytes(32)]
    for _ in range(63):
        heights.append(merkle.node_hash(heights[-1], heights[-1]))

    def hash_at(height: int, _index: int) -> bytes:
        return heights[height]

    size, root = merkle.SIZE_MAX, merkle.tree_root(merkle.SIZE_MAX, hash_at)
    for index in (0, 2**62 - 1, 2**62, size - 1):
        merkle.verify_inclusion(heights[0], index, size, merkle.inclusion_proof(index, size, hash_at), root)
        old_root = merkle.tree_root(index + 1, hash_at)
        proof = merkle.consistency_proof(index + 1, size, hash_at)
        merkle.verify_consistency(index + 1, size, proof, old_root, root)


# --- tiles of a large tree -------------------------------------------------------------------------------------------


def test_the_large_tree_has_the_tiles_of_the_example_in_tlog_tiles() -> None:
    assert list(merkle.new_tiles(0, LARGE)) == [
        *(Tile(0, index) for index in range(273)),
        Tile(0, 273, 112),
        Tile(1, 0),
        Tile(1, 1, 17),
        Tile(2, 0, 1),
    ]


def test_a_tree_of_256_has_a_full_tile_and_one_of_width_one_above_it() -> None:
    assert list(merkle.new_tiles(255, 256)) == [Tile(0, 0), Tile(1, 0, 1)]


def test_stored_tiles_hold_the_hashes_of_the_specification(
    large: Reference, stored: dict[Tile, bytes]
) -> None:
    assert {tile.level for tile in stored} == {0, 1, 2}
    for tile, data in stored.items():
        assert data == large.tile(tile.level, tile.index, tile.width)


@given(old=st.integers(0, LARGE), new=st.integers(0, LARGE))
def test_new_tiles_are_those_the_old_tree_had_not(old: int, new: int) -> None:
    old, new = sorted((old, new))
    before, after = set(merkle.new_tiles(0, old)), list(merkle.new_tiles(0, new))
    assert list(merkle.new_tiles(old, new)) == [tile for tile in after if tile not in before]


@given(size=st.integers(0, LARGE))
@example(size=LARGE)
def test_partial_tiles_have_the_width_of_the_specification(size: int) -> None:
    tiles = list(merkle.new_tiles(0, size))
    partial = {tile.level: tile.width for tile in tiles if tile.width < 256}
    assert partial == {level: size // 256**level % 256 for level in range(3) if size // 256**level % 256}
    full = [sum(tile.level == level for tile in tiles if tile.width == 256) for level in range(3)]
    assert full == [size // 256 ** (level + 1) for level in range(3)]


sizes = st.one_of(
    st.integers(1, LARGE),
    st.sampled_from([1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 65_793, LARGE]),
)


@given(size=sizes)
@example(size=LARGE)
def test_the_root_from_tiles(size: int, large: Reference, stored: dict[Tile, bytes]) -> None:
    assert merkle.tree_root(size, TileHashes(size, widest(stored))) == large.mth(0, size)


@given(size=sizes, data=st.data())
def test_inclusion_from_tiles(
    size: int, data: st.DataObject, large: Reference, stored: dict[Tile, bytes]
) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, TileHashes(size, widest(stored)))
    assert proof == large.path(index, 0, size)
    merkle.verify_inclusion(large.mth(index, index + 1), index, size, proof, large.mth(0, size))


@given(new=sizes, data=st.data())
def test_consistency_from_tiles(
    new: int, data: st.DataObject, large: Reference, stored: dict[Tile, bytes]
) -> None:
    old = data.draw(st.integers(1, new))
    proof = merkle.consistency_proof(old, new, TileHashes(LARGE, widest(stored)))
    assert proof == large.proof(old, new)
    merkle.verify_consistency(old, new, proof, large.mth(0, old), large.mth(0, new))


def test_a_proof_reads_each_tile_once_and_only_those_on_its_way(stored: dict[Tile, bytes]) -> None:
    read: list[Tile] = []

    def read_tile(tile: Tile) -> bytes:
        read.append(tile)
        return widest(stored)(tile)

    merkle.inclusion_proof(1_234, LARGE, TileHashes(LARGE, read_tile))
    assert sorted(read) == [Tile(0, 4), Tile(0, 273, 112), Tile(1, 0), Tile(1, 1, 17)]


def test_a_proof_from_a_changed_tile_does_not_hold(large: Reference, stored: dict[Tile, bytes]) -> None:
    random, read_tile = Random(SEED), widest(stored)

    def read_changed(tile: Tile) -> bytes:
        data = bytearray(read_tile(tile))
        for at in range(0, len(data), 32):
            data[at + random.randrange(32)] ^= 1 << random.randrange(8)
        return bytes(data)

    proof = merkle.inclusion_proof(1_234, LARGE, TileHashes(LARGE, read_changed))
    with pytest.raises(ProofError, match="does not lead"):
        merkle.verify_inclusion(large.mth(1_234, 1_235), 1_234, LARGE, proof, large.mth(0, LARGE))


@pytest.mark.parametrize("length", [0, 31, 2 * 32, 3 * 32 - 1, 3 * 32 + 1, 257 * 32])
def test_a_tile_with_other_than_its_hashes_is_refused(length: int) -> None:
    hash_at = TileHashes(3, lambda _tile: bytes(length))
    with pytest.raises(TileError, match="does not hold 3 hashes"):
        hash_at(0, 0)
    with pytest.raises(TileError, match="does not hold 3 hashes"):
        list(merkle.grown_tiles(3, bytes(32), lambda _tile: bytes(length)))


def test_a_wider_tile_serves_for_a_narrower_one(large: Reference) -> None:
    whole, leaf = large.tile(0, 0, 256), b"\1" * 32
    assert merkle.tile_hashes(Tile(0, 0, 3), whole) == whole[: 3 * 32]
    assert list(merkle.grown_tiles(3, leaf, lambda _tile: whole)) == [(Tile(0, 0, 4), whole[: 3 * 32] + leaf)]


@pytest.mark.parametrize(("height", "index"), [(0, 3), (1, 1), (2, 0), (0, -1), (-1, 0)])
def test_tiles_hold_no_subtree_that_is_not_complete(height: int, index: int) -> None:
    with pytest.raises(ValueError, match="no complete subtree"):
        TileHashes(3, lambda _tile: bytes(3 * 32))(height, index)


@pytest.mark.parametrize(("old", "new"), [(2, 1), (-1, 1), (0, 2**63)])
def test_a_tree_does_not_shrink(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="does not shrink"):
        list(merkle.new_tiles(old, new))


@pytest.mark.parametrize(("size", "leaves"), [(-1, bytes(32)), (0, bytes(31))])
def test_only_whole_leaves_follow_a_tree(size: int, leaves: bytes) -> None:
    with pytest.raises(ValueError, match="leaves of 32 bytes"):
        list(merkle.grown_tiles(size, leaves, lambda _tile: b""))


def test_a_tree_that_does_not_grow_has_no_new_tiles() -> None:
    assert list(merkle.grown_tiles(5, b"", lambda _tile: b"")) == []
    assert list(merkle.new_tiles(5, 5)) == []


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "level", "index", "width"), VECTORS["tile_paths"])
def test_tile_paths_are_spelt_as_specified(path: str, level: int, index: int, width: int) -> None:
    assert Tile(level, index, width).path == path
    assert merkle.parse_tile_path(path) == Tile(level, index, width)


@pytest.mark.parametrize(("path", "index", "width"), VECTORS["entries_paths"])
def test_entry_paths_are_spelt_as_specified(path: str, index: int, width: int) -> None:
    assert Tile(0, index, width).entries_path == path
    assert merkle.parse_entries_path(path) == Tile(0, index, width)


@st.composite
def tiles(draw: st.DrawFn) -> Tile:
    level = draw(st.integers(0, 6))
    row = merkle.SIZE_MAX >> 8 * level
    return Tile(level, draw(st.integers(0, row // 256 - 1)), draw(st.integers(1, 256)))


@given(tiles())
@example(Tile(0, merkle.SIZE_MAX // 256 - 1, 255))
def test_every_path_leads_back_to_its_tile(tile: Tile) -> None:
    assert merkle.parse_tile_path(tile.path) == tile
    under = Tile(0, tile.index, tile.width)
    assert merkle.parse_entries_path(under.entries_path) == under


def spellings(path: str) -> list[str]:
    """What the two parsers make of a path, written again."""
    found = []
    for parse, write in (
        (merkle.parse_tile_path, Tile.path.__get__),
        (merkle.parse_entries_path, Tile.entries_path.__get__),
    ):
        with suppress(TileError):
            found.append(write(parse(path)))
    return found


@given(st.one_of(st.text(), st.text("tile/enrsx.p0123456789").map("tile/".__add__)))
def test_no_path_has_a_second_spelling(path: str) -> None:
    assert set(spellings(path)) <= {path}


@pytest.mark.parametrize("path", VECTORS["wrong_paths"])
def test_wrong_paths_are_refused(path: str) -> None:
    assert spellings(path) == []


def test_a_path_of_a_million_digits_is_refused() -> None:
    for path in ("tile/0/" + "x001/" * 200_000 + "001", "tile/" + "1" * 1_000_000 + "/000"):
        assert spellings(path) == []


@pytest.mark.parametrize(
    "tile",
    [(-1, 0, 1), (64, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257), (8, 0, 1), (0, 2**55, 1), (7, 0, 128)],
)
def test_a_tile_no_tree_has_does_not_exist(tile: tuple[int, int, int]) -> None:
    with pytest.raises(TileError):
        Tile(*tile)


def test_entries_lie_under_tiles_of_level_zero_only() -> None:
    with pytest.raises(TileError, match="level 0 only"):
        _ = Tile(1, 0).entries_path


# --- entry bundles ---------------------------------------------------------------------------------------------------


def test_a_bundle_is_its_entries_after_their_lengths() -> None:
    assert merkle.encode_bundle([b"", b"a", b"b" * 258]) == b"\0\0" + b"\0\1a" + b"\1\2" + b"b" * 258


@given(st.lists(st.binary(max_size=300), max_size=256))
@example([b"x" * 65_535])
def test_a_bundle_gives_its_entries_back(listed: list[bytes]) -> None:
    assert merkle.decode_bundle(merkle.encode_bundle(listed), len(listed)) == listed


@given(st.binary(max_size=40), st.integers(0, 5))
def test_no_bundle_has_a_second_spelling(bundle: bytes, width: int) -> None:
    try:
        listed = merkle.decode_bundle(bundle, width)
    except TileError:
        return
    assert len(listed) == width
    assert merkle.encode_bundle(listed) == bundle


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.data())
def test_a_cut_or_longer_bundle_is_refused(listed: list[bytes], data: st.DataObject) -> None:
    bundle = merkle.encode_bundle(listed)
    cut = data.draw(st.integers(0, len(bundle) - 1))
    for wrong in (bundle[:cut], bundle + b"\0"):
        with pytest.raises(TileError, match="whole entries"):
            merkle.decode_bundle(wrong, len(listed))


def test_an_entry_too_long_for_its_length_is_refused() -> None:
    with pytest.raises(TileError, match="65,535 bytes"):
        merkle.encode_bundle([b"x" * 65_536])


# --- forged proofs ---------------------------------------------------------------------------------------------------

Claim = dict[str, Any]
"""The arguments of a verifier by name."""


def inclusion_claim(tree: Reference, index: int, size: int) -> Claim:
    proof = tree.path(index, 0, size)
    leaf, root = tree.mth(index, index + 1), tree.mth(0, size)
    return {"leaf": leaf, "index": index, "size": size, "proof": proof, "root": root}


def consistency_claim(tree: Reference, old: int, new: int) -> Claim:
    roots = {"old_root": tree.mth(0, old), "new_root": tree.mth(0, new)}
    return {"old_size": old, "new_size": new, "proof": tree.proof(old, new), **roots}


def drawn_claim(random: Random, tree: Reference) -> tuple[Callable[..., None], Claim]:
    size = random.choice([random.randint(2, 20), random.randint(2, len(tree.entries))])
    if random.random() < 0.5:
        return merkle.verify_inclusion, inclusion_claim(tree, random.randrange(size), size)
    return merkle.verify_consistency, consistency_claim(tree, random.randint(1, size - 1), size)


def flipped(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def changed_proof(random: Random, tree: Reference, proof: list[bytes]) -> list[Any]:
    """The hashes of a proof with one more, one less, one changed, two swapped or one put elsewhere."""
    proof, strange = list(proof), tree.mth(*sorted(random.sample(range(len(tree.entries)), 2)))
    at = random.randrange(len(proof) + 1)
    kind = random.randrange(7) if at < len(proof) else 0
    if kind == 0:
        proof.insert(at, random.choice([strange, bytes(32), *proof[:1], *proof[-1:]]))
    elif kind == 1:
        del proof[at]
    elif kind == 2:
        proof[at] = flipped(random, proof[at])
    elif kind == 3:
        proof[at] = strange
    elif kind == 4:
        proof[at] = random.choice([proof[at][:-1], proof[at] + b"\0", b""])
    elif kind == 5:
        other = random.randrange(len(proof))
        proof[at], proof[other] = proof[other], proof[at]
    else:
        proof = random.choice([proof[::-1], [], [*proof, *proof], [b"".join(proof)]])
    return proof


def mutated(random: Random, tree: Reference, claim: Claim) -> Claim:
    """The claim with one thing changed. A size changes together with its true root: they are one checkpoint."""
    claim = dict(claim)
    field = random.choice(["proof", "proof", *claim])
    size = random.randint(1, len(tree.entries))
    if field == "proof":
        claim["proof"] = changed_proof(random, tree, claim["proof"])
    elif field == "index":
        claim["index"] = random.choice([claim["index"] ^ 1 << random.randrange(9), random.randint(-2, size)])
    elif field == "size":
        claim |= {"size": size, "root": tree.mth(0, size)}
    elif field == "old_size":
        claim |= {"old_size": size, "old_root": tree.mth(0, size)}
    elif field == "new_size":
        claim |= {"new_size": size, "new_root": tree.mth(0, size)}
    else:
        other = random.choice([tree.mth(0, size), flipped(random, claim[field]), claim[field][1:]])
        claim[field] = other
    return claim


@pytest.fixture(scope="module")
def forgeries() -> Reference:
    return Reference(entries(600))


@pytest.mark.parametrize("count", MUTATIONS)
def test_no_mutated_proof_is_accepted(count: int, forgeries: Reference) -> None:
    print(f"seed {SEED}")
    random, tried = Random(SEED), 0
    while tried < count:
        verify, claim = drawn_claim(random, forgeries)
        verify(**claim)
        forged = mutated(random, forgeries, claim)
        if forged == claim:
            continue
        tried += 1
        with pytest.raises(ProofError):
            verify(**forged)


def test_a_size_alone_is_not_bound_by_a_proof_but_by_its_checkpoint(small: Reference) -> None:
    """Why a size and a root are taken from one checkpoint: on the way to leaf 0, five and six leaves look alike."""
    claim = inclusion_claim(small, 0, 5)
    merkle.verify_inclusion(**(claim | {"size": 6}))
    with pytest.raises(ProofError):
        merkle.verify_inclusion(**(claim | {"size": 6, "root": small.mth(0, 6)}))


def accepted(verify: Callable[..., None], *arguments: object) -> bool:
    try:
        verify(*arguments)
    except ProofError:
        return False
    return True


few_hashes = st.sampled_from([bytes(32), b"\1" * 32]) | st.binary(min_size=32, max_size=32)
paths = st.lists(few_hashes, max_size=6)
few = st.integers(0, 20)


@given(few_hashes, few, few, paths)
def test_any_path_leads_where_the_algorithm_of_rfc_9162_says(
    leaf: bytes, index: int, size: int, path: list[bytes]
) -> None:
    """The root is chosen so that the path does lead to it whenever its length is right."""
    roots = {folded(leaf, path, turns) for turns in range(2 ** len(path))}
    for root in roots:
        expected = inclusion_holds(leaf, index, size, path, root)
        assert accepted(merkle.verify_inclusion, leaf, index, size, path, root) == expected


def folded(node: bytes, path: list[bytes], turns: int) -> bytes:
    for sibling in path:
        node = hashlib.sha256(b"\1" + (sibling + node if turns & 1 else node + sibling)).digest()
        turns >>= 1
    return node


@given(st.data())
def test_two_trees_agree_where_the_algorithm_of_rfc_9162_says(data: st.DataObject) -> None:
    """True proofs of two trees, now and then cut, claimed for these two or some others."""
    tree, pairs = Reference(entries(20)), st.tuples(few, few)
    first, second = sorted(data.draw(pairs))
    old, new = data.draw(st.just((first, second)) | pairs)
    proof = tree.proof(first, second) if first else data.draw(paths)
    proof = proof[: data.draw(st.just(len(proof)) | st.integers(0, len(proof)))]
    old_root, new_root = tree.mth(0, old), tree.mth(0, data.draw(st.sampled_from([new, second])))
    expected = 0 < old < new and consistency_holds(old, new, proof, old_root, new_root)
    if 0 < old == new:
        expected = proof == [] and old_root == new_root
    assert accepted(merkle.verify_consistency, old, new, proof, old_root, new_root) == expected


strange = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=40), st.binary(max_size=40), few_hashes,
    st.sampled_from([-1, 0, 2**63, 10**5_000, -(10**5_000), bytearray(32), {}, object(), range(3)]),
    st.lists(st.none() | st.integers() | st.text() | st.binary(max_size=33) | few_hashes, max_size=4),
    st.tuples(few_hashes, st.lists(few_hashes, max_size=2)),
)  # fmt: skip


@given(st.tuples(*[strange | st.integers()] * 4), strange)
def test_garbage_is_refused_and_never_crashes(arguments: tuple[object, ...], last: object) -> None:
    for root in (hashlib.sha256(b"of no tree").digest(), last if not is_hash(last) else None):
        assert not accepted(merkle.verify_inclusion, *arguments, root)
        assert not accepted(merkle.verify_consistency, *arguments, root)


def is_hash(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == 32


@given(wrong=strange, data=st.data())
def test_one_piece_of_garbage_spoils_a_true_claim(
    wrong: object, data: st.DataObject, small: Reference
) -> None:
    for verify, claim in (
        (merkle.verify_inclusion, inclusion_claim(small, 100, SMALL)),
        (merkle.verify_consistency, consistency_claim(small, 100, SMALL)),
    ):
        assert accepted(verify, *claim.values())
        field = data.draw(st.sampled_from(sorted(claim)))
        assert not accepted(verify, *(claim | {field: wrong}).values())
        at = data.draw(st.integers(0, len(claim["proof"]) - 1))
        proof = [*claim["proof"][:at], wrong, *claim["proof"][at + 1 :]]
        assert not accepted(verify, *(claim | {"proof": proof}).values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"index": 7}, "below the size"),
        ({"index": -1}, "below the size"),
        ({"index": True}, "below the size"),
        ({"size": 2**63}, "below 2^63"),
        ({"proof": []}, "too many or too few"),
        ({"proof": [bytes(32)] * 4}, "too many or too few"),
        ({"proof": b"\0" * 3}, "a list of hashes"),
        ({"proof": [bytes(32), bytes(32), bytes(31)]}, "32 bytes"),
        ({"leaf": bytes(33)}, "32 bytes"),
        ({"root": "0" * 32}, "32 bytes"),
        ({"root": bytes(32)}, "does not lead from the leaf to the root"),
    ],
)
def test_a_refused_inclusion_says_why(change: Claim, reason: str, small: Reference) -> None:
    with pytest.raises(ProofError) as refused:
        merkle.verify_inclusion(**(inclusion_claim(small, 3, 7) | change))
    assert reason in refused.value.reason == str(refused.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"old_size": 0}, "at least 1"),
        ({"old_size": 8}, "not above the new size"),
        ({"new_size": None}, "at least 1"),
        ({"new_size": 2**63}, "below 2^63"),
        ({"proof": []}, "too many or too few"),
        ({"old_size": 7}, "too many or too few"),
        ({"old_size": 7, "proof": []}, "one root"),
        ({"old_root": b""}, "32 bytes"),
        ({"old_root": bytes(32)}, "to the old root"),
        ({"new_root": bytes(32)}, "to the new root"),
    ],
)
def test_a_refused_consistency_says_why(change: Claim, reason: str, small: Reference) -> None:
    with pytest.raises(ProofError) as refused:
        merkle.verify_consistency(**(consistency_claim(small, 3, 7) | change))
    assert reason in refused.value.reason == str(refused.value)


def test_a_rewritten_past_is_not_consistent(small: Reference) -> None:
    """One entry changed long ago, the rest appended honestly again: no proof from either tree convinces."""
    rewritten = Reference([*small.entries[:40], b"another", *small.entries[41:]])
    for old, new in pairwise(range(41, SMALL)):
        for tree in (small, rewritten):
            forged = consistency_claim(tree, old, new) | {
                "old_root": small.mth(0, old),
                "new_root": rewritten.mth(0, new),
            }
            with pytest.raises(ProofError):
                merkle.verify_consistency(**forged)
