"""A bundle carries a whole log to where no ledger is: it has one spelling, and whatever is changed in it shows."""

import hashlib
import json
import struct
import zipfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import bundle, merkle
from ledger.audit import verify
from ledger.audit.bundled import verify_bundle
from ledger.bundling import export_bundle
from ledger.checkpoint import Algorithm, Note, SignerKey
from ledger.errors import BundleExistsError, BundleWrongError, LedgerDamagedError, NotFoundError
from ledger.log import LedgerLog
from ledger.signer import Signer
from tests.bundle.conftest import Edit, check, entries, export, found, made, packed, repacked
from tests.signer.conftest import KEY, LEDGER_ID, NEXT_KEY, ORIGIN, START, Site, fact

FACTS = "facts/000000.ndjson"
SEED = 20_261_127


@pytest.fixture(scope="module")
def file(signed: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(signed, tmp_path_factory.mktemp("bundle") / "log.zip")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six facts under two checkpoints, in a file of which every byte can be tried."""
    folder = tmp_path_factory.mktemp("tiny")
    site = made(folder, (2, 6))
    export(site, folder / "tiny.zip")
    site.log.close()
    return folder / "tiny.zip"


# --- a sound one -----------------------------------------------------------------------------------------------------


def test_a_bundle_of_a_sound_log_is_sound(signed: Site, file: Path) -> None:
    report, opening = verify_bundle(file, [KEY.verifier_key], origin=ORIGIN)
    assert report.defects == ()
    newest = signed.store.latest()
    assert newest is not None
    assert (report.size, report.root) == (560, newest.root.hex())
    assert dict(report.checks) == {
        "entries": 10, "facts": 560, "streams": 560, "states": 560, "leaf_hashes": 560, "checkpoints": 4, "tiles": 4,
    }  # fmt: skip
    assert (opening.contents.ledger_id, opening.contents.kind) == (str(LEDGER_ID), "demo")
    assert opening.keys == (KEY.verifier_key,)


def test_any_tool_reads_it_and_recomputes_the_tree(signed: Site, file: Path) -> None:
    """With a zip library, a JSON library and SHA-256, as the README inside says."""
    content = entries(file)
    assert list(content)[:4] == ["README.txt", "ledger.json", "keys.txt", "checkpoint"]
    leaves = []
    for line in content[FACTS].splitlines():
        said = json.loads(line)
        state = line[line.index(b'"state":') + 8 : -1]
        assert json.loads(state) == said["state"]
        topic = said["topic"].encode()
        entry = b"volunteer-ledger/event/v1\0" + bytes.fromhex(said["stream_id"].replace("-", ""))
        entry += struct.pack(">QH", said["version"], len(topic)) + topic + hashlib.sha256(state).digest()
        leaves.append(hashlib.sha256(b"\0" + entry).digest())
    assert leaves == [row.leaf_hash for row in signed.log.read(1, 560)]
    assert b"".join(leaves[:256]) == content["tile/0/000"]
    assert merkle.root_of(b"".join(leaves)).hex() == json.loads(content["ledger.json"])["root"]
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_same_log_gives_the_same_bytes(signed: Site, file: Path, tmp_path: Path) -> None:
    assert export(signed, tmp_path / "again.zip").read_bytes() == file.read_bytes()


@pytest.mark.usefixtures("small_chunks")
def test_a_log_of_many_chunks_on_each_database(site: Site, tmp_path: Path) -> None:
    for size in (200, 512, 700, 1300):
        site.grow(size - site.count)
        site.sign()
    bundled = export(site, tmp_path / "log.zip")
    report = check(bundled)
    assert report.defects == ()
    assert (report.size, report.checks["checkpoints"], report.checks["tiles"]) == (1300, 4, 7)
    names = list(entries(bundled))
    assert [name for name in names if name.startswith("facts/")] == [
        bundle.facts_path(chunk) for chunk in range(3)
    ]
    assert names.index("tile/0/002") > names.index("facts/000000.ndjson")
    assert names[-1] == "facts/000002.ndjson"


def test_helpers_change_nothing_that_is_found(file: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, bytes]) -> None:
        content[FACTS] = content[FACTS].replace("站 7".encode(), "站 8".encode(), 1)

    wrong = repacked(file, edit, tmp_path / "wrong.zip")
    for one in (file, wrong):
        alone, _ = verify_bundle(one, [KEY.verifier_key], helpers=0)
        helped, _ = verify_bundle(one, [KEY.verifier_key], helpers=2)
        assert (alone.defects, dict(alone.checks)) == (helped.defects, dict(helped.checks))


@given(size=st.integers(1, 300_000_000))
@settings(max_examples=20)
def test_each_tile_lies_in_just_one_chunk(size: int) -> None:
    size = 1 + size % 400_000
    tiles = [tile for chunk in range(bundle.chunk_count(size)) for tile in bundle.chunk_tiles(chunk, size)]
    assert sorted(tiles) == sorted(merkle.new_tiles(0, size))


def test_a_log_may_have_a_chinese_name(tmp_path: Path) -> None:
    key = SignerKey("账本.example/甘谷", bytes(32))
    site = Site(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path)
    site.grow(3)
    with Signer(site.log, site.state, [key], key.name) as signer:
        signer.sign_once()
    export_bundle(site.log, tmp_path / "log.zip", [key.verifier_key], lambda *_: None)
    report, opening = verify_bundle(tmp_path / "log.zip", [key.verifier_key], origin=key.name)
    assert report.ok
    assert opening.keys == (key.verifier_key,)
    site.log.close()


def test_progress_is_told(signed: Site, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    export_bundle(signed.log, tmp_path / "log.zip", [KEY.verifier_key], lambda *said: told.append(said))
    assert told[0] == ("writing the bundle", 560, 560)
    assert told[-1] == ("checking the bundle", 560, 560)


def test_numbers_beyond_32_bits_stand_where_zip64_has_them(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without writing 4 GiB: with a lower limit, another library finds all entries in the ZIP64 fields."""
    content = entries(file)
    limit = max(map(len, content.values())) + 1
    monkeypatch.setattr(bundle, "_SHORT_MAX", 3)
    monkeypatch.setattr(bundle, "_LONG_MAX", limit)
    structures = packed(content, tmp_path / "far.zip").read_bytes()
    marked = structures.replace(struct.pack("<I", limit), b"\xff" * 4)
    assert b"PK\x06\x06" in marked
    assert check(tmp_path / "far.zip").ok
    far = tmp_path / "marked.zip"
    far.write_bytes(marked.replace(struct.pack("<HH", 3, 3) + b"\xff", b"\xff" * 5))
    assert entries(far) == content


# --- what is not exported --------------------------------------------------------------------------------------------


def test_nothing_is_exported_before_the_first_checkpoint(sqlite_site: Site, tmp_path: Path) -> None:
    sqlite_site.grow(3)
    with pytest.raises(NotFoundError):
        export(sqlite_site, tmp_path / "log.zip")
    assert not list(tmp_path.glob("*.zip*"))


def test_an_earlier_bundle_is_never_overwritten(signed: Site, tmp_path: Path) -> None:
    (tmp_path / "log.zip").write_bytes(b"evidence")
    with pytest.raises(BundleExistsError):
        export(signed, tmp_path / "log.zip")
    assert (tmp_path / "log.zip").read_bytes() == b"evidence"


@pytest.mark.parametrize(
    ("statement", "position"),
    [
        ("DELETE FROM facts WHERE position = 7", 7),
        ("UPDATE facts SET state = replace(state, '站', '所') WHERE position = 9", 9),
        ("UPDATE facts SET state = replace(state, '{', '[') WHERE position = 9", None),
        ("DELETE FROM tree_tiles", 1),
        ("UPDATE tree_tiles SET data = zeroblob(640)", 1),
        ("UPDATE checkpoints SET note = 'nonsense' WHERE size = 3", None),
    ],
)
def test_a_damaged_log_gives_no_bundle(tmp_path: Path, statement: str, position: int | None) -> None:
    site = made(tmp_path, (3, 20))
    site.edit((statement, ()))
    with pytest.raises((LedgerDamagedError, BundleWrongError)) as refused:
        export(site, tmp_path / "log.zip")
    assert position is None or refused.value.details["position"] == position
    assert not list(tmp_path.glob("*.zip*"))
    site.log.close()


def test_keys_that_did_not_sign_are_not_named_in_a_bundle(signed: Site, tmp_path: Path) -> None:
    with pytest.raises(LedgerDamagedError, match="CHECKPOINT_NOTE_WRONG"):
        export_bundle(signed.log, tmp_path / "log.zip", [NEXT_KEY.verifier_key], lambda *_: None)
    assert not list(tmp_path.glob("*.zip*"))


# --- every byte ------------------------------------------------------------------------------------------------------


def is_noticed(file: Path) -> bool:
    """Refused, named as a defect, or counted as an earlier checkpoint of a key that was not given."""
    try:
        report = check(file)
        return not report.ok or "checkpoints of keys not given" in report.checks
    except BundleWrongError:
        return True


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_any_changed_byte_is_refused(tiny: Path, tmp_path: Path, stride: int) -> None:
    whole, file = tiny.read_bytes(), tmp_path / "changed.zip"
    for at in range(0, len(whole), stride):
        changed = bytearray(whole)
        changed[at] ^= 1 << (at % 8)
        file.write_bytes(changed)
        with pytest.raises(BundleWrongError):
            check(file)


def test_a_bundle_cut_off_anywhere_is_refused(tiny: Path, tmp_path: Path) -> None:
    whole, file = tiny.read_bytes(), tmp_path / "cut.zip"
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(BundleWrongError):
            check(file)


@given(data=st.data())
def test_any_change_of_what_is_signed_shows_with_its_crc_made_to_fit(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """README, keys and the ledger's id and kind are claims; all else is facts, or signed, or has one spelling."""
    content = entries(tiny)
    path = data.draw(
        st.sampled_from([path for path in content if path not in ("README.txt", "keys.txt", "ledger.json")])
    )
    at, length = data.draw(st.integers(0, len(content[path]))), data.draw(st.integers(0, 3))
    changed = content[path][:at] + data.draw(st.binary(max_size=3)) + content[path][at + length :]
    if changed == content[path]:
        return
    file = tmp_path_factory.getbasetemp() / "fitting.zip"
    file.unlink(missing_ok=True)
    packed({**content, path: changed}, file)
    assert is_noticed(file), (path, at)


# --- facts changed, dropped, swapped, added --------------------------------------------------------------------------


def lines(content: dict[str, bytes]) -> list[bytes]:
    return content[FACTS].splitlines(keepends=True)


def put(content: dict[str, bytes], kept: list[bytes]) -> None:
    content[FACTS] = b"".join(kept)


def change(content: dict[str, bytes]) -> None:
    content[FACTS] = content[FACTS].replace('站 41"'.encode(), '所 41"'.encode())


def drop(content: dict[str, bytes]) -> None:
    kept = lines(content)
    put(content, kept[:41] + kept[42:])


def drop_and_renumber(content: dict[str, bytes]) -> None:
    kept = lines(content)
    moved = [
        line.replace(b'"position":%d,' % (at + 2), b'"position":%d,' % (at + 1))
        for at, line in enumerate(kept[42:], 41)
    ]
    put(content, kept[:41] + moved)


def swap(content: dict[str, bytes]) -> None:
    kept = lines(content)
    first, second = kept[41], kept[42]
    kept[41] = second.replace(b'"position":43,', b'"position":42,')
    kept[42] = first.replace(b'"position":42,', b'"position":43,')
    put(content, kept)


def add(content: dict[str, bytes]) -> None:
    kept = lines(content)
    more = fact(9_999)
    put(content, [*kept, bundle.fact_line(561, str(more.originator_id), 1, more.topic, more.state)])


def back_date(content: dict[str, bytes]) -> None:
    kept = lines(content)
    kept[41] = kept[41].replace(b'"recorded_at":"2026-03-02T01:00:41', b'"recorded_at":"2026-03-02T01:00:39')
    put(content, kept)


def raise_version(content: dict[str, bytes]) -> None:
    kept = lines(content)
    kept[41] = kept[41].replace(b'"version":1,', b'"version":2,')
    put(content, kept)


def edit_tile(content: dict[str, bytes]) -> None:
    tile = bytearray(content["tile/0/000"])
    tile[32 * 41] ^= 1
    content["tile/0/000"] = bytes(tile)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (change, {("LEAF_HASH_WRONG", 42), ("TILE_WRONG", 42), ("CHECKPOINT_WRONG", 21)}),
        (drop, {("POSITIONS_MISSING", 42), ("BUNDLE_COUNT_WRONG", 1), ("CHECKPOINT_WRONG", 21)}),
        (drop_and_renumber, {("LEAF_HASH_WRONG", 42)}),
        (swap, {("LEAF_HASH_WRONG", 42), ("LEAF_HASH_WRONG", 43), ("CHECKPOINT_WRONG", 21)}),
        (add, {("BUNDLE_COUNT_WRONG", 1), ("LEAF_HASH_WRONG", 561)}),
        (back_date, {("RECORDED_BACKWARDS", 42), ("LEAF_HASH_WRONG", 42)}),
        (raise_version, {("VERSION_WRONG", 42), ("LEAF_HASH_WRONG", 42)}),
        (edit_tile, {("TILE_WRONG", 42), ("LEAF_HASH_WRONG", 42)}),
    ],
)
def test_what_is_done_to_facts_is_named_with_its_position(
    file: Path, tmp_path: Path, edit: Edit, expected: set[tuple[str, int | None]]
) -> None:
    assert expected <= found(check(repacked(file, edit, tmp_path / "edited.zip")))


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (b"{}", "STATE_UNREADABLE"),
        (b'{"a":1.5}', "STATE_UNREADABLE"),
        (b"{" + b"[" * 5_000 + b"}", "STATE_UNREADABLE"),
    ],
)
def test_a_state_that_no_fact_may_have_is_named(file: Path, tmp_path: Path, state: bytes, code: str) -> None:
    def edit(content: dict[str, bytes]) -> None:
        kept = lines(content)
        kept[41] = kept[41][: kept[41].index(b'"state":') + 8] + state + b"}\n"
        put(content, kept)

    assert (code, 42) in found(check(repacked(file, edit, tmp_path / "edited.zip")))


def test_an_unknown_topic_is_named(file: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, bytes]) -> None:
        content[FACTS] = content[FACTS].replace(b'"topic":"unit.renamed"', b'"topic":"unit.abolished"', 1)

    assert ("TOPIC_UNKNOWN", 1) in found(check(repacked(file, edit, tmp_path / "edited.zip")))


# --- who signed ------------------------------------------------------------------------------------------------------


def test_a_bundle_made_anew_from_other_facts_lacks_the_signature(tmp_path: Path) -> None:
    """The strongest forger: another log, whole in itself, signed with a key of the same name."""
    (tmp_path / "forged").mkdir()
    site = Site(f"sqlite:///{tmp_path / 'forged' / 'ledger.db'}", tmp_path / "forged")
    site.grow(20)
    site.sign(NEXT_KEY)
    forged = tmp_path / "forged.zip"
    export_bundle(site.log, forged, [NEXT_KEY.verifier_key], lambda *_: None)
    site.log.close()
    assert verify_bundle(forged, [NEXT_KEY.verifier_key])[0].ok
    assert found(check(forged)) == {("CHECKPOINT_NOTE_WRONG", None)}


def test_a_bundle_of_a_log_of_another_name_is_not_ours(file: Path) -> None:
    report, _ = verify_bundle(file, [KEY.verifier_key], origin="ledger.example/other")
    assert {code for code, _ in found(report)} == {"CHECKPOINT_ORIGIN_WRONG"}


def test_as_many_witnesses_as_are_asked_for_must_have_cosigned(tmp_path: Path) -> None:
    witness = SignerKey("witness.example", bytes(range(64, 96)), Algorithm.COSIGNATURE_V1)
    absent = SignerKey("other.example", bytes(range(96, 128)), Algorithm.COSIGNATURE_V1).verifier_key
    site = made(tmp_path, (3, 20))
    newest = site.store.latest()
    assert newest is not None
    note = Note.parse(newest.note.encode())
    cosigned = note.with_signatures([witness.cosign(note.text, 1_772_413_200)]).to_bytes().decode()
    site.edit(("UPDATE checkpoints SET note = ? WHERE size = 20", (cosigned,)))
    file = export(site, tmp_path / "log.zip")
    keys = [KEY.verifier_key]
    both = [witness.verifier_key, absent]
    for minimum, codes in ((1, []), (2, ["COSIGNATURES_TOO_FEW"])):
        for report in (
            verify_bundle(file, keys, both, minimum)[0],
            verify(site.log, log_keys=keys, witness_keys=both, witnesses_min=minimum),
        ):
            assert [one.code for one in report.defects] == codes
            assert [(one.witness, one.size) for one in report.witnessed] == [(witness.verifier_key.label, 20)]
    site.log.close()


def test_a_witness_alone_does_not_make_a_checkpoint_the_logs(tmp_path: Path, file: Path) -> None:
    witness = SignerKey("witness.example", bytes(range(64, 96)), Algorithm.COSIGNATURE_V1)

    def edit(content: dict[str, bytes]) -> None:
        text = Note.parse(content["checkpoint"]).text
        content["checkpoint"] = Note(text, (witness.cosign(text, 1_772_413_200),)).to_bytes()

    edited = repacked(file, edit, tmp_path / "edited.zip")
    report, _ = verify_bundle(edited, [KEY.verifier_key], [witness.verifier_key])
    assert {code for code, _ in found(report)} == {"CHECKPOINT_NOTE_WRONG"}


# --- hostile zip files -----------------------------------------------------------------------------------------------


def rename(old: str, new: str) -> Edit:
    def edit(content: dict[str, bytes]) -> None:
        renamed = {new if path == old else path: data for path, data in content.items()}
        content.clear()
        content.update(renamed)

    return edit


def without(path: str) -> Edit:
    return lambda content: content.pop(path)


def put_first(content: dict[str, bytes]) -> None:
    content.update({path: content.pop(path) for path in list(content) if path != FACTS})


def with_entry(path: str, data: bytes) -> Edit:
    return lambda content: content.update({path: data})


@pytest.mark.parametrize(
    "edit",
    [
        rename("README.txt", "../README.txt"),
        rename("keys.txt", "/etc/keys.txt"),
        rename(FACTS, "facts/0.ndjson"),
        rename(FACTS, "facts/00000O.ndjson"),
        without("README.txt"), without("keys.txt"), without("checkpoint"), without("tile/1/000.p/2"), without(FACTS),
        with_entry("more.txt", b"x"), with_entry("facts/000001.ndjson", b""),
        put_first,
        with_entry("ledger.json", b"{}"), with_entry("ledger.json", b"[]"), with_entry("ledger.json", b"\xff"),
        with_entry("ledger.json", b"9" * 5_000), with_entry("ledger.json", b"[" * 9_000),
        with_entry("keys.txt", b"a key\n"), with_entry("keys.txt", "钥匙".encode()),
        with_entry("checkpoint", b"\xff"), with_entry("checkpoint", b""), with_entry("checkpoint", b"x" * (1 << 20)),
        with_entry("README.txt", b"x" * (1 << 21)),
        with_entry("tile/0/000", b""), with_entry("tile/0/000", bytes(8224)),
        with_entry("checkpoints/000000.ndjson", b"{}\n"), with_entry("checkpoints/000000.ndjson", b"\xff\n"),
        with_entry("checkpoints/000000.ndjson", b'{"note":"x"}\n'), with_entry("checkpoints/000000.ndjson", b"{"),
        with_entry(FACTS, b"\n"), with_entry(FACTS, b"{}\n"), with_entry(FACTS, b"no end"),
        with_entry(FACTS, b"x" * ((2 << 20) + 2)),
        with_entry(FACTS, b'{"position":1,"stream_id":"' + b"0" * 36 + b'","topic":"a","version":1,"state":{\xff}}\n'),
    ],
)  # fmt: skip
def test_entries_that_a_bundle_does_not_have_are_refused(file: Path, tmp_path: Path, edit: Edit) -> None:
    with pytest.raises(BundleWrongError):
        check(repacked(file, edit, tmp_path / "edited.zip"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0), ("size", -1), ("size", 2**63), ("size", "560"), ("size", 559), ("root", "00" * 32),
        ("root", "x"), ("root", 1), ("origin", 1), ("origin", "ledger.example/other"), ("kind", "real"), ("kind", None),
        ("ledger_id", "3A5D7C0E-1F52-4A67-9D2C-5B1E8F9A0C11"), ("ledger_id", 7), ("created_at", "2026"),
        ("created_at", None), ("schema_version", "1"), ("format", "wenming-bundle/2"), ("format", None), ("more", 1),
    ],
)  # fmt: skip
def test_a_ledger_json_that_says_what_cannot_be_is_refused(
    file: Path, tmp_path: Path, field: str, value: object
) -> None:
    def edit(content: dict[str, bytes]) -> None:
        said = json.loads(content["ledger.json"]) | {field: value}
        content["ledger.json"] = json.dumps(said, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    with pytest.raises(BundleWrongError):
        check(repacked(file, edit, tmp_path / "edited.zip"))


def earlier_checkpoints(*order: int) -> Edit:
    def edit(content: dict[str, bytes]) -> None:
        kept = content["checkpoints/000000.ndjson"].splitlines(keepends=True)
        content["checkpoints/000000.ndjson"] = b"".join(kept[at] for at in order)

    return edit


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 0, 1, 2), (2, 1, 0)])
def test_checkpoints_out_of_their_order_are_refused(
    file: Path, tmp_path: Path, order: tuple[int, ...]
) -> None:
    with pytest.raises(BundleWrongError, match="has no place here"):
        check(repacked(file, earlier_checkpoints(*order), tmp_path / "edited.zip"))


def test_compressed_entries_and_zip_bombs_are_refused_before_anything_is_unpacked(
    file: Path, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in entries(file).items():
            archive.writestr(path, bytes(64 << 20) if path == FACTS else data)
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(BundleWrongError):
        check(bomb)


def test_a_bundle_packed_again_by_another_tool_is_refused(file: Path, tmp_path: Path) -> None:
    """The same entries, stored, in the same order: but not in the one spelling."""
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        for path, data in entries(file).items():
            archive.writestr(path, data)
    with pytest.raises(BundleWrongError):
        check(other)


def test_a_second_entry_of_a_name_is_refused(file: Path, tmp_path: Path) -> None:
    doubled = tmp_path / "doubled.zip"
    with doubled.open("wb") as out:
        writer = bundle.ZipWriter(out)
        for path, data in entries(file).items():
            for _ in range(2 if path == FACTS else 1):
                writer.add(path, [data])
        writer.finish()
    with pytest.raises(BundleWrongError):
        check(doubled)


def test_a_length_that_is_not_there_is_refused_without_memory_for_it(tiny: Path, tmp_path: Path) -> None:
    whole, lying = bytearray(tiny.read_bytes()), tmp_path / "lying.zip"
    whole[18:26] = struct.pack("<II", 0xFFFFFFFE, 0xFFFFFFFE)
    lying.write_bytes(whole)
    with pytest.raises(BundleWrongError, match="larger than"):
        check(lying)
    at = bytes(whole).index(FACTS.encode()) - 30
    whole = bytearray(tiny.read_bytes())
    whole[at + 18 : at + 26] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    lying.write_bytes(whole)
    with pytest.raises(BundleWrongError):
        check(lying)


@pytest.mark.parametrize("more", [b"\0", b"PK\x05\x06", b"x" * 100_000])
def test_bytes_after_the_end_and_before_the_start_are_refused(
    tiny: Path, tmp_path: Path, more: bytes
) -> None:
    file = tmp_path / "more.zip"
    for content in (tiny.read_bytes() + more, more + tiny.read_bytes()):
        file.write_bytes(content)
        with pytest.raises(BundleWrongError):
            check(file)


def test_random_rubbish_is_refused(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    random, file = Random(SEED), tmp_path / "rubbish.zip"
    for length in (0, 1, 4, 29, 30, 5_000):
        for start in (b"", b"PK\x03\x04"):
            file.write_bytes(start + random.randbytes(length))
            with pytest.raises(BundleWrongError):
                check(file)


# --- what it reveals -------------------------------------------------------------------------------------------------


def test_a_ledger_of_another_time_may_be_named_but_not_another_log(file: Path, tmp_path: Path) -> None:
    """The ledger's id and kind are claims: only the checkpoint binds, and it names the log."""

    def edit(content: dict[str, bytes]) -> None:
        content["ledger.json"] = content["ledger.json"].replace(b'"demo"', b'"production"')

    report, opening = verify_bundle(repacked(file, edit, tmp_path / "edited.zip"), [KEY.verifier_key])
    assert report.ok
    assert opening.contents.kind == "production"


def test_a_created_at_after_the_first_fact_shows(file: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, bytes]) -> None:
        content["ledger.json"] = content["ledger.json"].replace(b"2026-03-02T01", b"2026-03-02T02")

    assert ("RECORDED_BACKWARDS", 1) in found(check(repacked(file, edit, tmp_path / "edited.zip")))


def test_no_log_without_facts_has_a_bundle(tmp_path: Path) -> None:
    log = LedgerLog.create(
        f"sqlite:///{tmp_path / 'empty.db'}", ledger_id=LEDGER_ID, kind="demo", created_at=START
    )
    with pytest.raises(NotFoundError):
        export_bundle(log, tmp_path / "log.zip", [], lambda *_: None)
    log.close()
