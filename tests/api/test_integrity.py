"""The signed tree over HTTP: what anybody may fetch proves what only some may read, and nothing more is told."""

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import merkle
from ledger.checkpoint import open_checkpoint
from ledger.proofs import InclusionProof
from tests.api.conftest import Copier, Town, name
from tests.api.test_bad_input import refused

ORIGIN = "ledger.example/town"


@pytest.fixture
def signed(town_in: Copier, tmp_path: Path) -> Iterator[Town]:
    """Two checkpoints, and facts after the second."""
    for town in town_in(tmp_path):
        town.sign()
        town.enrol()
        town.sign()
        town.place()
        yield town


def fetched(town: Town, path: str) -> Any:
    """As a stranger: no key."""
    return town.client.get(f"/log/{path}")


def test_a_stranger_checks_the_log_with_the_public_key_alone(signed: Town) -> None:
    answer = fetched(signed, "checkpoint")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "public, no-cache"
    tree = open_checkpoint(answer.content, ORIGIN, [signed.sign().verifier_key]).checkpoint
    assert 0 < tree.size < 256
    tile = merkle.Tile(0, 0, tree.size)
    hashes, bundle = fetched(signed, tile.path), fetched(signed, tile.entries_path)
    assert hashes.headers["content-type"] == "application/octet-stream"
    assert merkle.root_of(hashes.content) == tree.root
    entries = merkle.decode_bundle(bundle.content, tree.size)
    assert b"".join(map(merkle.entry_hash, entries)) == hashes.content


@pytest.mark.parametrize(
    "path",
    [
        *("tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1", "tile/0/0", "tile/0/000.p/256", "tile/0/000.p/0"),
        *(
            "tile/entries/000",
            "tile/entries/x000/000",
            "tile/x/y",
            "tile/-1/000.p/1",
            "tile/",
            "tile/64/000.p/1",
        ),
        *("tile/0/000.p/%E7%8E%8B", "tile/0/" + "9" * 400),
    ],
)
def test_what_is_no_published_tile_is_not_found(signed: Town, path: str) -> None:
    refused(fetched(signed, path), 404, "NOT_FOUND")


def test_facts_that_are_not_signed_yet_are_not_published(signed: Town) -> None:
    head = signed.parts.log.head().size
    tree_size = signed.seen("/integrity/checkpoint", "auditor")["size"]
    assert tree_size < head
    for kind in ("0", "entries"):
        assert fetched(signed, f"tile/{kind}/000.p/{tree_size}").status_code == 200
        assert fetched(signed, f"tile/{kind}/000.p/{head}").status_code == 404
    problem = refused(signed.get(f"/integrity/inclusion/{head}", "auditor"), 409, "NOT_SIGNED_YET")
    assert (problem["position"], problem["size"]) == (head, tree_size)


def test_a_full_tile_never_changes_and_may_be_kept(town: Town) -> None:
    number = 0
    while town.parts.log.head().size < 300:
        number += 1
        town.done(f"/units/{town.station}/rename", "admin", {"name": f"站 {number}"})
    town.sign()
    for kind in ("0", "entries"):
        full, partial = fetched(town, f"tile/{kind}/000"), fetched(town, f"tile/{kind}/000.p/7")
        assert full.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert full.content.startswith(partial.content)
        assert "immutable" not in partial.headers["cache-control"]


def test_every_signed_fact_is_proven_by_a_text_of_its_own(signed: Town) -> None:
    key = signed.sign().verifier_key
    size = signed.seen("/integrity/checkpoint", "auditor")["size"]
    for row in signed.parts.log.read(1, size):
        found = signed.seen(f"/integrity/inclusion/{row.position}", "auditor")
        assert (found["position"], found["leaf_index"]) == (row.position, row.position - 1)
        assert found["leaf_hash"] == row.leaf_hash.hex()
        assert merkle.entry_hash(b64decode(found["entry"])) == row.leaf_hash
        path, root = [bytes.fromhex(one) for one in found["path"]], found["checkpoint"]["root"]
        merkle.verify_inclusion(row.leaf_hash, row.position - 1, size, path, bytes.fromhex(root))
        proof = InclusionProof.parse(found["proof"].encode())
        assert proof.check([key], ORIGIN).checkpoint.size == size
        assert (proof.parts().stream_id, proof.parts().topic) == (row.stream_id, row.topic)


def test_any_two_checkpoints_are_proven_to_be_one_history(signed: Town) -> None:
    found = signed.seen("/integrity/consistency", "wang")
    older, newer = found["from"], found["to"]
    assert older["size"] < newer["size"]
    proof = [bytes.fromhex(one) for one in found["path"]]
    roots = [bytes.fromhex(one["root"]) for one in (older, newer)]
    merkle.verify_consistency(older["size"], newer["size"], proof, roots[0], roots[1])
    asked = signed.seen("/integrity/consistency", "wang", **{"from": older["size"], "to": older["size"]})
    assert (asked["to"], asked["path"]) == (older, [])
    assert signed.seen("/integrity/checkpoint", "wang", size=older["size"]) == older
    backwards = {"from": newer["size"], "to": older["size"]}
    refused(signed.get("/integrity/consistency", "wang", **backwards), 404, "UNKNOWN_CHECKPOINT")


def test_a_person_proves_their_own_facts_and_no_others(signed: Town) -> None:
    own = [row.position for row in signed.parts.log.read() if str(row.stream_id) == name("wang")]
    assert own
    for position in own:
        assert signed.get(f"/integrity/inclusion/{position}", "wang").status_code == 200
    for position in (1, 99_999):
        refused(signed.get(f"/integrity/inclusion/{position}", "wang"), 403, "WRONG_ROLE")
    for position in (0, -1, 99_999, 2**70):
        refused(signed.get(f"/integrity/inclusion/{position}", "auditor"), 404, "NOT_FOUND")


def test_sizes_that_make_no_sense_are_refused(signed: Town) -> None:
    places = (("checkpoint", "size"), ("inclusion/1", "size"), ("consistency", "from"), ("consistency", "to"))
    for path, which in places:
        refused(signed.get(f"/integrity/{path}", "auditor", **{which: 1}), 404, "UNKNOWN_CHECKPOINT")
        for size in (0, -1, "x", 2**70):
            refused(signed.get(f"/integrity/{path}", "auditor", **{which: size}), 422, "INVALID_REQUEST")


def test_before_anything_is_signed_that_is_said(town: Town) -> None:
    refused(fetched(town, "checkpoint"), 404, "NOT_FOUND")
    refused(fetched(town, "tile/0/000.p/1"), 404, "NOT_FOUND")
    for path in ("checkpoint", "inclusion/1", "consistency"):
        refused(town.get(f"/integrity/{path}", "auditor"), 404, "NOT_FOUND")
