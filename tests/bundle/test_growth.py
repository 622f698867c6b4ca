"""What was kept of an earlier log shows whether today's only grew: growth always passes, a fork of the past never."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import facts
from ledger.audit import verify
from ledger.audit.bundled import verify_bundle
from ledger.audit.growth import earlier
from ledger.audit.report import Report
from ledger.bundling import export_bundle
from ledger.checkpoint import Checkpoint, SignerKey, sign_checkpoint
from ledger.errors import BundleWrongError
from ledger.log import LedgerLog
from ledger.merkle import Frontier
from ledger.tree import TreeStore
from tests.bundle.conftest import SIZES, check, entries, export, found, made, packed, repacked
from tests.signer.conftest import KEY, LEDGER_ID, NEXT_KEY, ORIGIN, Site, fact

NOW = 600


@dataclass(frozen=True)
class Kept:
    """By size, the bundle and the checkpoint that somebody kept; and the log as it is now, with its own bundle."""

    site: Site
    bundles: dict[int, Path]
    notes: dict[int, Path]

    @property
    def newest(self) -> Path:
        return self.bundles[NOW]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    folder = tmp_path_factory.mktemp("kept")
    site = made(folder, ())
    bundles, notes = {}, {}
    for size in (*SIZES, NOW):
        site.grow(size - site.count)
        site.sign()
        bundles[size] = export(site, folder / f"{size}.zip")
        newest = site.store.latest()
        assert newest is not None
        notes[size] = folder / f"{size}.checkpoint"
        notes[size].write_text(newest.note, encoding="utf-8")
    yield Kept(site, bundles, notes)
    site.log.close()


def verified(site: Site, since: Path, *keys: SignerKey) -> Report:
    with earlier(since) as before:
        return verify(site.log, log_keys=[key.verifier_key for key in keys], since=before)


def leaves_of(site: Site, size: int) -> list[bytes]:
    return [row.leaf_hash for row in site.log.read(1, size)]


def note_over(leaves: list[bytes], origin: str = ORIGIN, key: SignerKey = KEY) -> str:
    tree = Frontier()
    for leaf in leaves:
        tree.append(leaf)
    return sign_checkpoint(Checkpoint(origin, tree.size, tree.root()), [key]).to_bytes().decode()


# --- growth always passes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*SIZES, NOW])
def test_growth_since_any_earlier_bundle_or_checkpoint_passes(kept: Kept, size: int) -> None:
    for since in (kept.bundles[size], kept.notes[size]):
        assert check(kept.newest, since).defects == ()
        assert verified(kept.site, since, KEY).defects == ()
        assert verified(kept.site, since).defects == ()


@pytest.mark.usefixtures("small_chunks")
def test_growth_over_many_chunks_passes_on_each_database(site: Site, tmp_path: Path) -> None:
    old = []
    for size in (512, 700, 1300):
        site.grow(size - site.count)
        site.sign()
        old.append(export(site, tmp_path / f"{size}.zip"))
    for since in old:
        assert check(old[-1], since).defects == ()
        assert verified(site, since, KEY).defects == ()


@given(size=st.integers(1, NOW))
def test_growth_since_a_checkpoint_of_any_size_passes(kept: Kept, size: int) -> None:
    file = kept.newest.with_name("any.checkpoint")
    file.write_text(note_over(leaves_of(kept.site, size)), encoding="utf-8")
    assert check(kept.newest, file).defects == ()


def test_an_unsigned_log_can_be_compared_with_a_checkpoint_too(sqlite_site: Site, tmp_path: Path) -> None:
    sqlite_site.grow(30)
    file = tmp_path / "kept.checkpoint"
    file.write_text(note_over(leaves_of(sqlite_site, 20)), encoding="utf-8")
    assert verified(sqlite_site, file).ok
    file.write_text(note_over([bytes(32)] * 20), encoding="utf-8")
    assert ("SINCE_ROOT_DIFFERS", 1) in found(verified(sqlite_site, file))


# --- no fork of the past does ----------------------------------------------------------------------------------------


def forked(folder: Path, at: int, sizes: tuple[int, ...], key: SignerKey = KEY) -> Site:
    """Another log of the same name and key, whole in itself, whose fact at position ``at`` is another."""
    folder.mkdir(exist_ok=True)
    site = Site(f"sqlite:///{folder / 'ledger.db'}", folder)
    for size in sizes:
        other = [fact(number, "站" if number + 1 != at else "另一个站") for number in range(site.count, size)]
        site.log.insert_events(other)
        site.count = size
        site.sign(key)
    return site


@pytest.mark.parametrize("at", [1, 2, 20, 257, 560])
def test_a_fork_is_named_with_its_position(kept: Kept, tmp_path: Path, at: int) -> None:
    fork = forked(tmp_path / "fork", at, (300, 700))
    bundle = export(fork, tmp_path / "fork.zip")
    assert check(bundle).ok
    for report in (check(bundle, kept.bundles[560]), verified(fork, kept.bundles[560], KEY)):
        assert found(report) == {
            ("SINCE_FACT_DIFFERS", at), ("SINCE_ROOT_DIFFERS", at), ("SINCE_PROOF_WRONG", None),
        }  # fmt: skip
    for report in (check(bundle, kept.notes[560]), verified(fork, kept.notes[560], KEY)):
        assert found(report) == {("SINCE_ROOT_DIFFERS", 1), ("SINCE_PROOF_WRONG", None)}
    fork.log.close()


def test_a_fork_after_what_was_kept_is_growth(kept: Kept, tmp_path: Path) -> None:
    """Of facts that were recorded later, an earlier bundle can say nothing."""
    fork = forked(tmp_path / "fork", 301, (300, 700))
    assert check(export(fork, tmp_path / "fork.zip"), kept.bundles[300]).ok
    fork.log.close()


@given(size=st.integers(1, NOW), data=st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_other_past_of_any_size_passes(kept: Kept, size: int, data: st.DataObject) -> None:
    """One leaf is another, two have changed places, or one is missing or doubled: it was signed, and does not pass."""
    leaves = leaves_of(kept.site, size)
    at = data.draw(st.integers(0, size - 1))
    match data.draw(st.sampled_from(["other", "swapped", "missing", "doubled"])):
        case "other":
            leaves[at] = bytes(32)
        case "swapped":
            other = data.draw(st.integers(0, size - 1))
            leaves[at], leaves[other] = leaves[other], leaves[at]
        case "missing":
            del leaves[at]
        case "doubled":
            leaves.insert(at, leaves[at])
    if leaves in ([], leaves_of(kept.site, len(leaves))):
        return
    file = kept.newest.with_name("other.checkpoint")
    file.write_text(note_over(leaves), encoding="utf-8")
    assert not check(kept.newest, file).ok


def test_a_log_that_was_cut_off_is_named_with_the_first_position_that_is_gone(
    kept: Kept, tmp_path: Path
) -> None:
    for size in (560, 300, 3):
        assert ("SINCE_LARGER", size + 1) in found(check(kept.bundles[size], kept.newest))
        assert ("SINCE_LARGER", size + 1) in found(check(kept.bundles[size], kept.notes[NOW]))
    old = forked(tmp_path / "old", 0, (20,))
    assert ("SINCE_LARGER", 21) in found(verified(old, kept.newest, KEY))
    old.log.close()


def test_a_cut_off_end_that_was_written_anew_is_named(kept: Kept, tmp_path: Path) -> None:
    """The end is cut off and another written: the log is as long as before."""
    fork = forked(tmp_path / "fork", 290, (3, 20, 300))
    report = check(export(fork, tmp_path / "fork.zip"), kept.bundles[300])
    assert ("SINCE_FACT_DIFFERS", 290) in found(report)
    fork.log.close()


def test_a_rewritten_database_is_named_against_the_bundle_though_it_fits_itself(tmp_path: Path) -> None:
    site = made(tmp_path, (300,))
    old = export(site, tmp_path / "old.zip")
    site.edit(site.write_fact(257, fact(256, "另一个站")))
    site.fit_the_head()
    site.edit(("DELETE FROM checkpoints", ()), ("DELETE FROM tree_tiles", ()))
    assert verify(site.log).ok
    assert found(verified(site, old)) == {("SINCE_FACT_DIFFERS", 257), ("SINCE_ROOT_DIFFERS", 257)}
    site.log.close()


# --- whose it is -----------------------------------------------------------------------------------------------------


def test_evidence_of_another_log_is_named(kept: Kept, tmp_path: Path) -> None:
    file = tmp_path / "other.checkpoint"
    file.write_text(note_over(leaves_of(kept.site, 20), "ledger.example/other"), encoding="utf-8")
    for report in (check(kept.newest, file), verified(kept.site, file, KEY)):
        assert [(one.code, "origin" in one.en) for one in report.defects] == [("SINCE_LEDGER_DIFFERS", True)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (str(LEDGER_ID), "00000000-0000-4000-8000-000000000000"),
        ('"demo"', '"production"'),
        ("2026-03-02T01:00:00", "2026-03-02T00:00:00"),
    ],
)
def test_a_bundle_that_claims_to_be_of_another_ledger_is_named(
    kept: Kept, tmp_path: Path, old: str, new: str
) -> None:
    def edit(content: dict[str, bytes]) -> None:
        content["ledger.json"] = content["ledger.json"].replace(old.encode(), new.encode())

    claimed = repacked(kept.bundles[20], edit, tmp_path / "claimed.zip")
    for report in (check(kept.newest, claimed), verified(kept.site, claimed, KEY)):
        assert found(report) == {("SINCE_LEDGER_DIFFERS", None)}


def test_evidence_that_no_known_key_signed_is_named(kept: Kept, tmp_path: Path) -> None:
    file = tmp_path / "forged.checkpoint"
    file.write_text(note_over(leaves_of(kept.site, 20), key=NEXT_KEY), encoding="utf-8")
    assert found(check(kept.newest, file)) == {("SINCE_NOTE_WRONG", None)}
    assert found(verified(kept.site, file, KEY)) == {("SINCE_NOTE_WRONG", None)}
    assert verified(kept.site, file).ok  # no key was given to ask for


def test_keys_that_are_no_longer_named_are_named(kept: Kept, tmp_path: Path) -> None:
    site = forked(tmp_path / "renewed", 0, (20,), NEXT_KEY)
    renewed = tmp_path / "renewed.zip"
    export_bundle(site.log, renewed, [NEXT_KEY.verifier_key], lambda *_: None)
    with earlier(kept.bundles[20]) as before:
        report, _ = verify_bundle(renewed, [KEY.verifier_key, NEXT_KEY.verifier_key], since=before)
    assert found(report) == {("SINCE_KEYS_DIFFER", None)}
    assert KEY.verifier_key.label in report.defects[0].en
    site.log.close()


# --- what is no evidence ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\xff", b"nothing", b"PK\x03\x04", b"PK\x03\x04" + bytes(99)])
def test_a_file_that_is_neither_bundle_nor_checkpoint_is_refused(
    kept: Kept, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "kept"
    file.write_bytes(content)
    with pytest.raises(BundleWrongError):
        check(kept.newest, file)


def test_an_earlier_bundle_whose_tiles_are_not_its_checkpoints_is_refused_not_believed(
    kept: Kept, tmp_path: Path
) -> None:
    """The log is what was signed then: it is the bundle that was edited, and no fact is accused."""

    def edit(content: dict[str, bytes]) -> None:
        content["tile/0/000"] = bytes(32) + content["tile/0/000"][32:]

    with pytest.raises(BundleWrongError, match="earlier bundle"):
        check(kept.newest, repacked(kept.bundles[300], edit, tmp_path / "edited.zip"))


def test_an_earlier_bundle_that_was_cut_off_is_refused(kept: Kept, tmp_path: Path) -> None:
    cut = tmp_path / "cut.zip"
    whole = kept.bundles[300].read_bytes()
    cut.write_bytes(whole[: whole.index(b"tile/0/001") + 99])
    with pytest.raises(BundleWrongError):
        check(kept.newest, cut)


def test_a_bundle_without_a_key_named_asks_for_none(kept: Kept, tmp_path: Path) -> None:
    content = entries(kept.bundles[20]) | {"keys.txt": b""}
    assert check(kept.newest, packed(content, tmp_path / "keyless.zip")).ok


# --- at size ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # about 40 s
@pytest.mark.timeout(600)
def test_a_log_of_two_whole_chunks_with_helpers_that_are_wanted(tmp_path: Path) -> None:
    """Facts of every kind, chunks as they are, and enough of them that other cores share in the work."""
    site = Site(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path)
    site.log.close()
    (tmp_path / "ledger.db").unlink()
    site.log = LedgerLog.create(site.url, ledger_id=facts.LEDGER_ID, kind="demo", created_at=facts.START)
    site.store = TreeStore(site.log)
    year = facts.stored_facts(140_000)
    for some in (70_000, 70_000):
        for _ in range(some // 1_000):
            site.log.insert_events(list(islice(year, 1_000)))
        export(site, tmp_path / f"{site.sign()}.zip")
    since = tmp_path / "70000.zip"
    assert check(tmp_path / "140000.zip", since).defects == ()
    assert verified(site, since, KEY).defects == ()
    (row,) = site.log.read(65_537, 65_537)
    site.edit(
        ("UPDATE facts SET state = ? WHERE position = 65537", (row.state.decode().replace(":", ": ", 1),))
    )
    report = verified(site, since, KEY)
    assert {
        ("STATE_UNREADABLE", 65_537),
        ("LEAF_HASH_WRONG", 65_537),
        ("SINCE_FACT_DIFFERS", 65_537),
    } <= found(report)
    site.log.close()
