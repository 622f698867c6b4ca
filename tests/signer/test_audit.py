"""`verify` over a signed log: what was rewritten to fit itself does not fit what was signed."""

from typing import Any

import pytest

from ledger.audit import Report, verify
from ledger.checkpoint import Checkpoint, SignerKey, sign_checkpoint
from ledger.merkle import Frontier
from tests.signer.conftest import KEY, NEXT_KEY, ORIGIN, Site, fact

SIZES = (10, 256, 300, 560)


@pytest.fixture
def signed(site: Site) -> Site:
    """Four checkpoints, and forty facts after the last."""
    for size in SIZES:
        site.grow(size - site.count)
        site.sign()
    site.grow(40)
    return site


def defects(report: Report) -> set[tuple[str, int | None]]:
    return {(defect.code, defect.position) for defect in report.defects}


def found(site: Site, *keys: SignerKey) -> set[tuple[str, int | None]]:
    return defects(verify(site.log, log_keys=[key.verifier_key for key in keys]))


def test_a_signed_log_is_sound(signed: Site) -> None:
    report = verify(signed.log, log_keys=[KEY.verifier_key])
    assert report.ok, report.defects
    assert (report.checks["checkpoints"], report.checks["tiles"]) == (4, 4)


def test_without_checkpoints_nothing_is_said_of_them(site: Site) -> None:
    site.grow(3)
    report = verify(site.log, log_keys=[KEY.verifier_key])
    assert report.ok
    assert "checkpoints" not in report.checks


def test_before_the_first_checkpoint_all_is_well(site: Site) -> None:
    site.sign()
    assert verify(site.log).ok


@pytest.mark.parametrize(
    ("position", "first_checkpoint"), [(3, 10), (11, 256), (256, 256), (299, 300), (560, 560)]
)
def test_a_rewritten_fact_and_the_first_checkpoint_it_does_not_fit_are_named(
    signed: Site, position: int, first_checkpoint: int
) -> None:
    signed.edit(signed.write_fact(position, fact(position - 1, "另一个站")))
    signed.fit_the_head()
    report = verify(signed.log)
    wrong = [defect for defect in report.defects if defect.code == "CHECKPOINT_WRONG"]
    assert len(wrong) == 1
    assert f"size {first_checkpoint} " in wrong[0].en
    before = max((size for size in (0, *SIZES) if size < first_checkpoint), default=0)
    assert wrong[0].position == before + 1
    assert ("TILE_WRONG", position) in defects(report)


def test_facts_that_are_not_signed_yet_can_still_be_rewritten(signed: Site) -> None:
    signed.edit(signed.write_fact(561, fact(560, "另一个站")))
    signed.fit_the_head()
    assert verify(signed.log).ok
    signed.edit(signed.write_fact(560, fact(559, "另一个站")))
    signed.fit_the_head()
    assert not verify(signed.log).ok


def test_an_end_that_was_cut_off_is_missed(signed: Site) -> None:
    signed.edit(("DELETE FROM facts WHERE position > 550", ()))
    signed.fit_the_head()
    assert ("CHECKPOINT_WRONG", 301) in found(signed)


def test_facts_that_changed_places_are_found(signed: Site) -> None:
    signed.edit(
        ("UPDATE facts SET position = 9999 WHERE position = 4", ()),
        ("UPDATE facts SET position = 4 WHERE position = 5", ()),
        ("UPDATE facts SET position = 5 WHERE position = 9999", ()),
    )
    signed.fit_the_head()
    assert {("CHECKPOINT_WRONG", 1), ("TILE_WRONG", 4)} <= found(signed)


@pytest.mark.parametrize(
    ("change", "values", "code"),
    [
        ("UPDATE checkpoints SET root = ? WHERE size = 256", (bytes(32),), "CHECKPOINT_WRONG"),
        ("UPDATE checkpoints SET note = ? WHERE size = 256", ("rubbish",), "CHECKPOINT_NOTE_WRONG"),
        ("UPDATE checkpoints SET size = 257 WHERE size = 256", (), "CHECKPOINT_NOTE_WRONG"),
        ("UPDATE checkpoints SET size = 999 WHERE size = 560", (), "CHECKPOINT_WRONG"),
        ("UPDATE tree_tiles SET data = ? WHERE level = 0 AND tile_index = 1", (bytes(8192),), "TILE_WRONG"),
        ("UPDATE tree_tiles SET width = 99 WHERE level = 0 AND tile_index = 2", (), "TILE_WRONG"),
        ("UPDATE tree_tiles SET data = ? WHERE level = 1", (b"",), "TILE_WRONG"),
        ("DELETE FROM tree_tiles WHERE level = 0 AND tile_index = 0", (), "TILES_COUNT_WRONG"),
        ("INSERT INTO tree_tiles VALUES (5, 0, 1, ?)", (bytes(32),), "TILES_COUNT_WRONG"),
        ("DROP TABLE checkpoints", (), "TABLE_MISSING"),
        ("DROP TABLE tree_tiles", (), "TABLE_MISSING"),
    ],
)
def test_what_was_published_is_checked_too(
    signed: Site, change: str, values: tuple[Any, ...], code: str
) -> None:
    signed.edit((change, values))
    assert code in {one for one, _ in found(signed)}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE checkpoints SET size = 'many' WHERE size = 256",
        "UPDATE checkpoints SET root = 1.5 WHERE size = 256",
        "UPDATE checkpoints SET note = x'ff' WHERE size = 256",
        "UPDATE tree_tiles SET width = 'wide', data = 7",
    ],
)
def test_columns_of_another_kind_are_defects_and_no_crash(sqlite_site: Site, change: str) -> None:
    for size in SIZES:
        sqlite_site.grow(size - sqlite_site.count)
        sqlite_site.sign()
    sqlite_site.edit((change, ()))
    assert not verify(sqlite_site.log).ok


def test_whoever_rewrites_all_of_it_lacks_the_key(signed: Site) -> None:
    """Fact, hashes, head, tiles and checkpoints: only the signature, or a checkpoint kept elsewhere, still tells."""
    signed.edit(signed.write_fact(300, fact(299, "另一个站")))
    signed.fit_the_head()
    forger, tree = SignerKey(ORIGIN, bytes(32)), Frontier()
    leaves = [row.leaf_hash for row in signed.log.read()]
    signed.edit(
        ("UPDATE tree_tiles SET data = ? WHERE level = 0 AND tile_index = 1", (b"".join(leaves[256:512]),))
    )
    for size in range(1, len(leaves) + 1):
        tree.append(leaves[size - 1])
        if size in SIZES:
            forged = sign_checkpoint(Checkpoint(ORIGIN, size, tree.root()), [forger]).to_bytes().decode()
            signed.edit(
                ("UPDATE checkpoints SET root = ?, note = ? WHERE size = ?", (tree.root(), forged, size))
            )
    level_one = [Frontier() for _ in range(2)]
    for number, one in enumerate(level_one):
        for leaf in leaves[256 * number : 256 * (number + 1)]:
            one.append(leaf)
    signed.edit(
        ("UPDATE tree_tiles SET data = ? WHERE level = 1", (b"".join(one.root() for one in level_one),))
    )
    assert verify(signed.log).ok
    assert {code for code, _ in found(signed, KEY)} == {"CHECKPOINT_NOTE_WRONG"}


def test_a_known_key_must_have_signed_each_checkpoint(signed: Site) -> None:
    assert found(signed, KEY) == found(signed, NEXT_KEY, KEY) == set()
    assert {code for code, _ in found(signed, NEXT_KEY)} == {"CHECKPOINT_NOTE_WRONG"}
