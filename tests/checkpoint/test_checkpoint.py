"""What signed notes and checkpoints promise: one spelling, no text without a known key, no wrong signature passed over.

The specifications are c2sp.org/signed-note, tlog-checkpoint and tlog-cosignature (audit.md, Tree, checkpoint, signer,
witnesses). `test_go` asks Go's own implementation about the same bytes.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.checkpoint import (
    NOTE_BYTES_MAX,
    SIGNATURES_MAX,
    SIZE_MAX,
    TIME_SECONDS_MAX,
    Algorithm,
    Checkpoint,
    Note,
    Signature,
    SignerKey,
    VerifierKey,
    key_id,
    open_checkpoint,
    open_note,
    parse_signature_lines,
    sign,
    sign_checkpoint,
)
from ledger.errors import (
    CheckpointMalformedError,
    CosignaturesTooFewError,
    LedgerError,
    NoteKeyMalformedError,
    NoteKeysAmbiguousError,
    NoteMalformedError,
    NoTrustedSignatureError,
    SignatureWrongError,
    WrongOriginError,
)
from ledger.merkle import EMPTY_ROOT

ORIGIN = "gangu.example/ledger"
ROOT = sha256(b"a root").digest()
TEXT = f"{ORIGIN}\n20852163\n{b64encode(ROOT).decode()}\n"
CHECKPOINT = Checkpoint(ORIGIN, 20852163, ROOT)
LOG = SignerKey(ORIGIN, bytes(range(32)))
NEW_LOG = SignerKey(ORIGIN, bytes(range(1, 33)))
RENAMED_LOG = SignerKey("gangu.example/ledger2", bytes(range(2, 34)))
WITNESS = SignerKey("提灯.example/见证", bytes(range(3, 35)), Algorithm.COSIGNATURE_V1)
STRANGER = SignerKey("stranger.example/a", bytes(range(4, 36)))
NOON = 1_767_139_200
SIGNED = sign_checkpoint(CHECKPOINT, [LOG])
COSIGNED = SIGNED.with_signatures([WITNESS.cosign(TEXT, NOON)])

# Published vectors: golang.org/x/mod v0.7.0, sumdb/note/example_test.go and note_test.go (BSD-3-Clause).
PETER_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH_VKEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
PETER_TEXT = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)
PETER_LINE = (
    "— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot "
    "rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
# The key of Go's checksum database, as the go command knows it (cmd/go/internal/modfetch/key.go).
SUMDB_VKEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"


def verifiers(*keys: SignerKey) -> list[VerifierKey]:
    return [key.verifier_key for key in keys]


def note(text: str, lines: str) -> bytes:
    return f"{text}\n{lines}".encode()


# --- the published examples ------------------------------------------------------------------------------------------


def test_the_published_key_signs_the_published_text_as_published() -> None:
    signed = sign(PETER_TEXT, [SignerKey.from_text(PETER_SKEY)])
    assert signed.to_bytes() == note(PETER_TEXT, PETER_LINE)


def test_the_published_note_opens_for_one_key_or_both() -> None:
    data = note(PETER_TEXT, PETER_LINE + ENOCH_LINE)
    peter, enoch = VerifierKey.from_text(PETER_VKEY), VerifierKey.from_text(ENOCH_VKEY)
    one, both = open_note(data, [peter]), open_note(data, [peter, enoch])
    assert one.text == both.text == PETER_TEXT
    assert [t.key for t in one.trusted] == [peter]
    assert [s.name for s in one.unknown] == ["EnochRoot"]
    assert [t.key for t in both.trusted] == [peter, enoch]
    assert both.unknown == ()


@pytest.mark.parametrize("text", [PETER_VKEY, ENOCH_VKEY, SUMDB_VKEY])
def test_published_verifier_keys_are_read_and_written_back(text: str) -> None:
    assert VerifierKey.from_text(text).to_text() == text


def test_the_published_private_key_belongs_to_the_published_public_key() -> None:
    key = SignerKey.from_text(PETER_SKEY)
    assert key.to_text() == PETER_SKEY
    assert key.verifier_key.to_text() == PETER_VKEY


def test_a_key_id_is_the_start_of_the_specified_hash() -> None:
    public = WITNESS.verifier_key.public_key
    expected = sha256("提灯.example/见证".encode() + b"\x0a\x04" + public).digest()[:4]
    assert WITNESS.verifier_key.key_id == expected == key_id(WITNESS.name, Algorithm.COSIGNATURE_V1, public)
    assert key_id(WITNESS.name, Algorithm.ED25519, public) != expected


def test_a_cosignature_signs_the_specified_message() -> None:
    """The message is spelt out here and verified as a plain Ed25519 signature under the same public key."""
    line = WITNESS.cosign(TEXT, NOON)
    assert line.value[:8] == NOON.to_bytes(8, "big")
    message = f"cosignature/v1\ntime 1767139200\n{TEXT}"
    plain = VerifierKey(WITNESS.name, WITNESS.verifier_key.public_key)
    plain.verify(message, Signature(plain.name, plain.key_id, line.value[8:]))


# --- opening ---------------------------------------------------------------------------------------------------------


def test_a_signed_and_cosigned_checkpoint_opens() -> None:
    opened = open_checkpoint(COSIGNED.to_bytes(), ORIGIN, verifiers(LOG), verifiers(WITNESS))
    assert opened.checkpoint == CHECKPOINT
    assert [(t.key, t.time_seconds) for t in opened.log_signatures] == [(LOG.verifier_key, None)]
    assert [(t.key, t.time_seconds) for t in opened.cosignatures] == [(WITNESS.verifier_key, NOON)]
    assert opened.witness_names == {WITNESS.name}
    assert opened.unknown == ()


def test_signatures_of_unknown_keys_are_kept_and_prove_nothing() -> None:
    signed = sign_checkpoint(CHECKPOINT, [LOG, STRANGER])
    opened = open_checkpoint(signed.to_bytes(), ORIGIN, verifiers(LOG))
    assert opened.unknown == (signed.signatures[1],)
    with pytest.raises(NoTrustedSignatureError):
        open_note(sign(TEXT, [STRANGER]).to_bytes(), verifiers(LOG))


def test_without_known_keys_nothing_is_trusted() -> None:
    with pytest.raises(NoTrustedSignatureError):
        open_note(SIGNED.to_bytes(), [])


def test_witnesses_alone_do_not_speak_for_the_log() -> None:
    only_witness = Note(TEXT, (WITNESS.cosign(TEXT, NOON),)).to_bytes()
    assert open_note(only_witness, verifiers(WITNESS)).text == TEXT
    with pytest.raises(NoTrustedSignatureError) as refused:
        open_checkpoint(only_witness, ORIGIN, verifiers(LOG), verifiers(WITNESS))
    assert refused.value.details == {"needed": [LOG.verifier_key.label]}


def test_the_log_does_not_witness_itself() -> None:
    log = SignerKey("selfish.example", bytes(32), Algorithm.COSIGNATURE_V1)
    data = Note(TEXT, (log.cosign(TEXT, NOON),)).to_bytes()
    opened = open_checkpoint(data, ORIGIN, verifiers(log), verifiers(log))
    assert opened.log_signatures != ()
    assert opened.witness_names == frozenset()


def test_a_witness_is_known_by_a_key_that_can_only_cosign() -> None:
    with pytest.raises(NoteKeyMalformedError, match="0x04"):
        open_checkpoint(COSIGNED.to_bytes(), ORIGIN, verifiers(LOG), verifiers(STRANGER))


def test_the_checkpoint_of_another_log_is_refused_though_the_key_is_known() -> None:
    other = sign_checkpoint(Checkpoint("other.example/log", 1, ROOT), [LOG])
    with pytest.raises(WrongOriginError, match=r"other\.example/log"):
        open_checkpoint(other.to_bytes(), ORIGIN, verifiers(LOG))


def test_a_signed_text_that_is_no_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointMalformedError):
        open_checkpoint(sign("hello\n", [LOG]).to_bytes(), ORIGIN, verifiers(LOG))


@pytest.mark.parametrize("broken", [0, 1])
def test_one_wrong_signature_of_a_known_key_refuses_all(broken: int) -> None:
    """Also when the other known key's signature is right."""
    lines = list(COSIGNED.signatures)
    good = lines[broken]
    lines[broken] = Signature(good.name, good.key_id, good.value[:-1] + bytes([good.value[-1] ^ 1]))
    with pytest.raises(SignatureWrongError, match="does not fit"):
        open_note(Note(TEXT, tuple(lines)).to_bytes(), verifiers(LOG, WITNESS))


def test_a_wrong_signature_does_not_hide_behind_a_right_one_of_the_same_key() -> None:
    good = SIGNED.signatures[0]
    wrong = Signature(good.name, good.key_id, bytes(64))
    for pair in ((good, wrong), (wrong, good)):
        with pytest.raises(SignatureWrongError):
            open_note(Note(TEXT, pair).to_bytes(), verifiers(LOG))


def test_repeated_signatures_count_once() -> None:
    stranger = sign(TEXT, [STRANGER]).signatures[0]
    early, late = WITNESS.cosign(TEXT, NOON), WITNESS.cosign(TEXT, NOON + 1)
    repeated = Note(TEXT, (*SIGNED.signatures * 2, stranger, early, stranger, late))
    opened = open_checkpoint(repeated.to_bytes(), ORIGIN, verifiers(LOG), verifiers(WITNESS))
    assert len(opened.log_signatures) == 1
    assert [t.time_seconds for t in opened.cosignatures] == [NOON]
    assert opened.unknown == (stranger,)


@pytest.mark.parametrize("length", [1, 7, 8, 63, 65, 72])
def test_a_signature_of_another_length_is_wrong(length: int) -> None:
    for key in verifiers(LOG, WITNESS):
        line = Signature(key.name, key.key_id, bytes(length))
        with pytest.raises(SignatureWrongError):
            open_note(Note(TEXT, (line,)).to_bytes(), [key])


def test_a_key_verifies_only_lines_in_its_own_name_and_id() -> None:
    line = SIGNED.signatures[0]
    for name, identifier in (("gangu.example/other", line.key_id), (line.name, bytes(4))):
        with pytest.raises(SignatureWrongError):
            LOG.verifier_key.verify(TEXT, Signature(name, identifier, line.value))


def test_a_shared_name_or_id_alone_is_an_unknown_key() -> None:
    line = SIGNED.signatures[0]
    lines = (
        line,
        Signature(line.name, bytes(4), line.value),
        Signature("a.example", line.key_id, line.value),
    )
    opened = open_note(Note(TEXT, lines).to_bytes(), verifiers(LOG))
    assert opened.unknown == lines[1:]


def test_two_known_keys_of_one_name_and_id_are_refused() -> None:
    """These two share four bytes of hash; found by trying, as anybody can."""
    first, second = (VerifierKey("log.example/one", n.to_bytes(32, "big")) for n in (16714, 114816))
    assert first.key_id == second.key_id
    with pytest.raises(NoteKeysAmbiguousError, match=r"log\.example/one"):
        open_note(SIGNED.to_bytes(), [*verifiers(LOG), first, second])
    assert open_note(SIGNED.to_bytes(), verifiers(LOG, LOG)).text == TEXT


# --- rotation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [NEW_LOG, RENAMED_LOG])
def test_while_keys_change_either_key_opens_the_checkpoint(new: SignerKey) -> None:
    both = sign_checkpoint(CHECKPOINT, [LOG, new]).to_bytes()
    for known in ([LOG], [new], [LOG, new]):
        opened = open_checkpoint(both, ORIGIN, verifiers(*known))
        assert [t.key for t in opened.log_signatures] == verifiers(*known)


@pytest.mark.parametrize("new", [NEW_LOG, RENAMED_LOG])
def test_after_the_change_the_old_key_alone_no_longer_opens(new: SignerKey) -> None:
    with pytest.raises(NoTrustedSignatureError):
        open_checkpoint(sign_checkpoint(CHECKPOINT, [new]).to_bytes(), ORIGIN, verifiers(LOG))


def test_a_witness_with_an_old_and_a_new_key_is_one_witness() -> None:
    new = SignerKey(WITNESS.name, bytes(range(9, 41)), Algorithm.COSIGNATURE_V1)
    data = COSIGNED.with_signatures([new.cosign(TEXT, NOON)]).to_bytes()
    opened = open_checkpoint(data, ORIGIN, verifiers(LOG), verifiers(WITNESS, new))
    assert len(opened.cosignatures) == 2
    assert opened.witness_names == {WITNESS.name}


def test_a_new_signature_replaces_the_same_keys_earlier_one_and_stands_last() -> None:
    again = WITNESS.cosign(TEXT, NOON + 60)
    both = COSIGNED.with_signatures(sign(TEXT, [STRANGER]).signatures).with_signatures([again])
    assert [s.name for s in both.signatures] == [ORIGIN, STRANGER.name, WITNESS.name]
    assert both.signatures[-1] == again


# --- cosignatures ----------------------------------------------------------------------------------------------------


def test_a_cosignature_for_another_time_or_text_is_wrong() -> None:
    line = WITNESS.cosign(TEXT, NOON)
    later = Signature(line.name, line.key_id, (NOON + 1).to_bytes(8, "big") + line.value[8:])
    longer = CHECKPOINT.to_text() + "one more line\n"
    for text, changed in ((TEXT, later), (longer, line)):
        with pytest.raises(SignatureWrongError):
            WITNESS.verifier_key.verify(text, changed)


def test_extension_lines_are_cosigned() -> None:
    text = Checkpoint(ORIGIN, 0, EMPTY_ROOT, ("one", "two")).to_text()
    assert WITNESS.verifier_key.verify(text, WITNESS.cosign(text, 0)).time_seconds == 0


def test_a_time_beyond_the_specified_range_is_wrong_though_signed() -> None:
    """Signed with the same private key as if it were a plain one: the library itself refuses to make such a time."""
    beyond = TIME_SECONDS_MAX + 1
    signed = SignerKey("x", WITNESS.seed).sign(f"cosignature/v1\ntime {beyond}\n{TEXT}")
    line = Signature(WITNESS.name, WITNESS.verifier_key.key_id, beyond.to_bytes(8, "big") + signed.value)
    with pytest.raises(SignatureWrongError):
        WITNESS.verifier_key.verify(TEXT, line)
    assert WITNESS.verifier_key.verify(TEXT, WITNESS.cosign(TEXT, TIME_SECONDS_MAX))


@pytest.mark.parametrize("time_seconds", [-1, TIME_SECONDS_MAX + 1])
def test_no_cosignature_is_made_for_an_impossible_time(time_seconds: int) -> None:
    with pytest.raises(ValueError, match="time"):
        WITNESS.cosign(TEXT, time_seconds)


def test_only_checkpoints_are_cosigned() -> None:
    with pytest.raises(CheckpointMalformedError):
        WITNESS.cosign("hello\n", NOON)
    signed = SignerKey("x", WITNESS.seed).sign(f"cosignature/v1\ntime {NOON}\nhello\n")
    line = Signature(WITNESS.name, WITNESS.verifier_key.key_id, NOON.to_bytes(8, "big") + signed.value)
    with pytest.raises(CheckpointMalformedError):
        open_note(Note("hello\n", (line,)).to_bytes(), verifiers(WITNESS))


def test_each_key_makes_its_own_kind_of_signature_only() -> None:
    with pytest.raises(ValueError, match="cosigns"):
        WITNESS.sign(TEXT)
    with pytest.raises(ValueError, match="cosigns"):
        LOG.cosign(TEXT, NOON)


def test_a_witnesss_answer_is_read_as_signature_lines() -> None:
    answer = WITNESS.cosign(TEXT, NOON).to_line() + sign(TEXT, [STRANGER]).signatures[0].to_line()
    assert [s.name for s in parse_signature_lines(answer)] == [WITNESS.name, STRANGER.name]
    for block in (answer + "\n", answer[:-1], "", LINE * (SIGNATURES_MAX + 1)):
        with pytest.raises(NoteMalformedError):
            parse_signature_lines(block)


# --- strict notes ----------------------------------------------------------------------------------------------------

LINE = SIGNED.signatures[0].to_line()
ENCODED = LINE.split(" ")[2].rstrip("\n")
LONG_TEXT = "a" * NOTE_BYTES_MAX + "\n"
MALFORMED_NOTES = {
    "nothing": b"",
    "no blank line": f"{TEXT}{LINE}".encode(),
    "no signature": f"{TEXT}\n".encode(),
    "a blank line after the signatures": note(TEXT, f"{LINE}\n"),
    "a blank line between signatures, then other text": note(TEXT, f"{LINE}\nmore\n"),
    "no newline at the end": note(TEXT, LINE[:-1]),
    "an unexpected line": note(TEXT, f"{LINE}Unexpected line.\n"),
    "CRLF": note(TEXT, LINE).replace(b"\n", b"\r\n"),
    "CR at the end of a line": note(TEXT, LINE.replace("\n", "\r\n")),
    "a tab in the text": note(f"a\t\n{TEXT}", LINE),
    "U+001F in the text": note(f"a\x1f\n{TEXT}", LINE),
    "a zero byte in the text": note(f"a\0\n{TEXT}", LINE),
    "U+001F in a name": note(TEXT, LINE.replace("gangu", "gan\x1fgu")),
    "not UTF-8": b"\xff" + note(TEXT, LINE),
    "an overlong encoding": note(TEXT, LINE).replace(b"gangu", b"\xc1\xa7angu"),
    "an encoded surrogate": b"\xed\xa0\x80" + note(TEXT, LINE),
    "UTF-16": note(TEXT, LINE).decode().encode("utf-16"),
    "an ordinary dash": note(TEXT, LINE.replace("—", "-")),
    "an en dash": note(TEXT, LINE.replace("—", "–")),
    "no space after the dash": note(TEXT, LINE.replace("— ", "—")),
    "no name": note(TEXT, f"— {ENCODED}\n"),
    "an empty name": note(TEXT, f"—  {ENCODED}\n"),
    "a plus in the name": note(TEXT, LINE.replace("gangu", "gan+gu")),
    "a no-break space in the name": note(TEXT, LINE.replace("gangu", "gan\xa0gu")),
    "a line separator in the name": note(TEXT, LINE.replace("gangu", "gan\u2028gu")),
    "an ideographic space in the name": note(TEXT, LINE.replace("gangu", "甘\u3000谷")),
    "two spaces before the signature": note(TEXT, f"— {ORIGIN}  {ENCODED}\n"),
    "a space after the signature": note(TEXT, f"— {ORIGIN} {ENCODED} \n"),
    "no padding": note(TEXT, LINE.replace("=", "")),
    "too much padding": note(TEXT, LINE.replace("\n", "=\n")),
    "no signature bytes": note(TEXT, f"— {ORIGIN} \n"),
    "URL-safe base64": note(TEXT, f"— {ORIGIN} -_-_-_-_\n"),
    "only a key id": note(TEXT, f"— {ORIGIN} {b64encode(bytes(4)).decode()}\n"),
    "not even a key id": note(TEXT, f"— {ORIGIN} {b64encode(bytes(3)).decode()}\n"),
    "unused bits that are set": note(TEXT, f"{LINE}— {ORIGIN} AAAAAAB=\n"),
    "base64 of another script": note(TEXT, f"— {ORIGIN} {ENCODED.translate({65: 0x410, 66: 0x412})}В\n"),
    "101 signatures": note(TEXT, LINE * (SIGNATURES_MAX + 1)),
    "more than a megabyte": note(LONG_TEXT, LOG.sign(LONG_TEXT).to_line()),
}


@pytest.mark.parametrize("case", MALFORMED_NOTES)
def test_a_malformed_note_is_refused(case: str) -> None:
    with pytest.raises(NoteMalformedError):
        open_note(MALFORMED_NOTES[case], verifiers(LOG))


@pytest.mark.parametrize(
    "text", ["\n", "a\n\nb\n", "\n\na\n", "a\n\n", "a\n\n\n", "\x7f\x85 x\n", "a\u2028\u2029b\n"]
)
def test_what_the_specification_allows_in_a_text_is_allowed(text: str) -> None:
    signed = sign(text, [LOG])
    assert open_note(signed.to_bytes(), verifiers(LOG)).text == text


def test_a_note_holds_as_much_as_promised_and_no_more() -> None:
    line = SIGNED.signatures[0]
    hundred = Note(TEXT, (line,) * SIGNATURES_MAX)
    assert Note.parse(hundred.to_bytes()) == hundred
    space = NOTE_BYTES_MAX - len(SIGNED.to_bytes()) + len(TEXT) - 1
    full = Note("a" * space + "\n", (line,))
    assert len(full.to_bytes()) == NOTE_BYTES_MAX
    assert Note.parse(full.to_bytes()) == full
    for text, count in (("a" + full.text, 1), (TEXT, SIGNATURES_MAX + 1), (TEXT, 0)):
        with pytest.raises(NoteMalformedError):
            Note(text, (line,) * count)


@pytest.mark.parametrize("text", ["", "no newline", "a\tb\n", "a\r\n", "\ud800\n"])
def test_what_could_not_be_opened_is_not_signed(text: str) -> None:
    with pytest.raises(NoteMalformedError):
        sign(text, [LOG])
    with pytest.raises(NoteMalformedError):
        LOG.sign(text)


# --- strict checkpoints ----------------------------------------------------------------------------------------------

B64 = b64encode(ROOT).decode()
TWIN = f"{B64[:-2]}{chr(ord(B64[-2]) + 1)}="
"""Another spelling of the same root, which a lenient decoder accepts."""


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{ORIGIN}\n1\n",
        f"{ORIGIN}\n1\n{B64}",
        f"{ORIGIN}\n1\n{B64}\nextension",
        f"\n1\n{B64}\n",
        f"{ORIGIN}\n\n{B64}\n",
        *(
            f"{ORIGIN}\n{size}\n{B64}\n"
            for size in ("01", "00", "-1", "+1", " 1", "1 ", "1_0", "0x1", "1.0", "1e3")
        ),
        *(f"{ORIGIN}\n{size}\n{B64}\n" for size in ("١", "１", "9" * 19, "9" * 20, str(SIZE_MAX + 1))),
        f"{ORIGIN}\n1\n{B64[:-1]}\n",
        f"{ORIGIN}\n1\n{B64} \n",
        f"{ORIGIN}\n1\n\n",
        f"{ORIGIN}\n1\n{b64encode(ROOT[:31]).decode()}\n",
        f"{ORIGIN}\n1\n{b64encode(ROOT + b'!').decode()}\n",
        f"{ORIGIN}\n1\n{B64}\n\n",
        f"{ORIGIN}\n1\n{B64}\none\n\ntwo\n",
        f"{ORIGIN}\t\n1\n{B64}\n",
        f"{ORIGIN}\n1\n{B64}\na\rb\n",
    ],
)
def test_a_malformed_checkpoint_is_refused_though_signed(text: str) -> None:
    with pytest.raises(CheckpointMalformedError):
        Checkpoint.parse(text)


def test_a_root_with_unused_bits_set_is_refused() -> None:
    assert b64decode(TWIN) == ROOT
    with pytest.raises(CheckpointMalformedError, match="canonical"):
        Checkpoint.parse(f"{ORIGIN}\n1\n{TWIN}\n")


@pytest.mark.parametrize("size", [0, 1, 10, SIZE_MAX])
def test_every_size_of_the_range_is_read_back(size: int) -> None:
    text = f"{ORIGIN}\n{size}\n{B64}\n"
    assert Checkpoint.parse(text) == Checkpoint(ORIGIN, size, ROOT)
    assert Checkpoint.parse(text).to_text() == text


@pytest.mark.parametrize(
    "make",
    [
        lambda: Checkpoint("", 1, ROOT),
        lambda: Checkpoint(f"{ORIGIN}\n2\n{B64}", 1, ROOT),
        lambda: Checkpoint(ORIGIN, 1, ROOT, ("",)),
        lambda: Checkpoint(ORIGIN, 1, ROOT, ("a\nb",)),
        lambda: Checkpoint("\ud800", 1, ROOT),
        lambda: Checkpoint(ORIGIN, -1, ROOT),
        lambda: Checkpoint(ORIGIN, SIZE_MAX + 1, ROOT),
        lambda: Checkpoint(ORIGIN, 1, ROOT[:-1]),
    ],
)
def test_no_checkpoint_is_made_that_would_be_read_as_another(make: Callable[[], Checkpoint]) -> None:
    with pytest.raises(CheckpointMalformedError):
        make()


# --- strict keys -----------------------------------------------------------------------------------------------------


def manglings(text: str) -> Iterator[str]:
    """Every substring but the whole, and every character replaced by its successor, as Go's own test does."""
    for start in range(len(text)):
        yield from (text[start:end] for end in range(start, len(text) + (start > 0)))
        yield text[:start] + chr(ord(text[start]) + 1) + text[start + 1 :]


@pytest.mark.parametrize("text", [PETER_VKEY, WITNESS.verifier_key.to_text()])
def test_a_mangled_verifier_key_is_refused(text: str) -> None:
    for mangled in manglings(text):
        with pytest.raises(NoteKeyMalformedError):
            VerifierKey.from_text(mangled)


@pytest.mark.parametrize("text", [PETER_SKEY, WITNESS.to_text()])
def test_a_mangled_private_key_is_refused_without_repeating_it(text: str) -> None:
    for mangled in manglings(text):
        with pytest.raises(NoteKeyMalformedError) as refused:
            SignerKey.from_text(mangled)
        assert text[-20:] not in str(refused.value)


def key_text(name: str, raw: bytes) -> str:
    """A vkey whose key id is right, whatever else is wrong."""
    identifier = sha256(name.encode() + b"\n" + raw).digest()[:4].hex()
    return f"{name}+{identifier}+{b64encode(raw).decode()}"


@pytest.mark.parametrize(
    "text",
    [
        key_text("a", b"\x05" + bytes(32)),
        key_text("a", b"\x06" + bytes(1312)),
        key_text("a", b"\x01" + bytes(31)),
        key_text("a", b"\x01" + bytes(33)),
        key_text("a", b"\x01"),
        key_text("a", b""),
        key_text("a b", b"\x01" + bytes(32)),
        key_text("a\0", b"\x01" + bytes(32)),
        key_text("", b"\x01" + bytes(32)),
        ENOCH_VKEY.replace("af0cfe78", "AF0CFE78"),
        ENOCH_VKEY + "\n",
        " " + ENOCH_VKEY,
    ],
)
def test_a_key_of_another_kind_length_or_spelling_is_refused(text: str) -> None:
    with pytest.raises(NoteKeyMalformedError):
        VerifierKey.from_text(text)


def test_a_plus_in_a_name_cannot_be_smuggled_into_a_key() -> None:
    with pytest.raises(NoteKeyMalformedError):
        SignerKey("a+b", bytes(32))
    with pytest.raises(NoteKeyMalformedError):
        VerifierKey("a+b", bytes(32))


def test_a_private_key_does_not_show_itself() -> None:
    key = SignerKey("a", bytes(range(100, 132)))
    shown = repr(key)
    assert repr(key.seed) not in shown
    assert key.to_text()[-20:] not in shown


def test_the_errors_speak_both_languages() -> None:
    for error in (NoTrustedSignatureError(needed=["a+00000000"]), SignatureWrongError(key="a+00000000")):
        assert "a+00000000" in error.sentence_zh
        assert "a+00000000" in error.sentence_en


# --- always and never ------------------------------------------------------------------------------------------------


def changes(data: bytes) -> Iterator[bytes]:
    """Every single bit flipped, every byte replaced by a telling one, dropped or doubled, every truncation."""
    for i, byte in enumerate(data):
        others = {byte ^ 1 << bit for bit in range(8)} | set(b"\n +=/A0\x00\xff")
        yield from (data[:i] + bytes([other]) + data[i + 1 :] for other in others - {byte})
        yield data[:i] + data[i + 1 :]
        yield data[:i] + data[i : i + 1] + data[i:]
        yield data[:i]


def test_every_change_of_a_signed_checkpoint_is_refused() -> None:
    data, known = SIGNED.to_bytes(), verifiers(LOG)
    count = 0
    for changed in changes(data):
        if changed != data:
            count += 1
            with pytest.raises(LedgerError):
                open_checkpoint(changed, ORIGIN, known)
    assert count > 10 * len(data)


def test_no_change_of_a_cosigned_checkpoint_changes_what_is_believed() -> None:
    """A line may be lost, or become an unknown key's: that is noticed as a missing witness, never as another text."""
    data, still_open = COSIGNED.to_bytes(), 0
    right = open_checkpoint(data, ORIGIN, verifiers(LOG), verifiers(WITNESS))
    for changed in changes(data):
        try:
            opened = open_checkpoint(changed, ORIGIN, verifiers(LOG), verifiers(WITNESS))
        except LedgerError:
            continue
        still_open += 1
        assert opened.checkpoint == right.checkpoint
        assert opened.log_signatures == right.log_signatures
        assert opened.cosignatures == () or changed == data
    assert 0 < still_open < len(COSIGNED.signatures[1].to_line()) * 25


CHARACTERS = st.characters(codec="utf-8", exclude_characters=[chr(c) for c in range(32)])
LINES = st.text(CHARACTERS, min_size=1, max_size=40)
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="+\x85", exclude_categories=["Z", "Cc"]),
    min_size=1,
    max_size=30,
)
TEXTS = st.lists(st.text(CHARACTERS, max_size=30), min_size=1, max_size=6).map(
    lambda lines: "".join(f"{line}\n" for line in lines)
)
SEEDS = st.binary(min_size=32, max_size=32)
SIGNERS = st.builds(SignerKey, NAMES, SEEDS)
WITNESSES = st.builds(SignerKey, NAMES, SEEDS, st.just(Algorithm.COSIGNATURE_V1))
CHECKPOINTS = st.builds(
    Checkpoint,
    LINES,
    st.integers(0, SIZE_MAX),
    st.binary(min_size=32, max_size=32),
    st.lists(LINES, max_size=3).map(tuple),
)
SIGNATURES = st.builds(
    Signature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=100)
)


@given(TEXTS, st.lists(SIGNATURES, min_size=1, max_size=8).map(tuple))
def test_a_note_is_read_as_it_was_written(text: str, signatures: tuple[Signature, ...]) -> None:
    written = Note(text, signatures)
    assert Note.parse(written.to_bytes()) == written


@given(TEXTS, SIGNERS, st.lists(SIGNATURES, max_size=3))
def test_what_a_key_signs_opens_for_that_key(text: str, key: SignerKey, others: list[Signature]) -> None:
    signed = Note(text, (*others, key.sign(text)))
    opened = open_note(signed.to_bytes(), [VerifierKey.from_text(key.verifier_key.to_text())])
    assert opened.text == text
    assert [t.signature for t in opened.trusted] == [key.sign(text)]
    assert opened.unknown == tuple(dict.fromkeys(others))


@given(TEXTS, TEXTS, SIGNERS)
def test_a_signature_fits_no_other_text(text: str, other: str, key: SignerKey) -> None:
    if text != other:
        with pytest.raises(SignatureWrongError):
            open_note(Note(other, (key.sign(text),)).to_bytes(), [key.verifier_key])


@given(CHECKPOINTS, SIGNERS, WITNESSES, st.integers(0, TIME_SECONDS_MAX))
def test_any_checkpoint_is_signed_cosigned_and_opened(
    checkpoint: Checkpoint, log: SignerKey, witness: SignerKey, time_seconds: int
) -> None:
    signed = sign_checkpoint(checkpoint, [log])
    data = signed.with_signatures([witness.cosign(signed.text, time_seconds)]).to_bytes()
    opened = open_checkpoint(data, checkpoint.origin, [log.verifier_key], [witness.verifier_key])
    assert opened.checkpoint == checkpoint
    assert [t.time_seconds for t in opened.cosignatures] == [time_seconds]
    assert data.count(b"\n\n") == 1


@given(st.one_of(SIGNERS, WITNESSES))
def test_keys_are_read_as_they_were_written(key: SignerKey) -> None:
    assert SignerKey.from_text(key.to_text()) == key
    assert VerifierKey.from_text(key.verifier_key.to_text()) == key.verifier_key


SIZES = st.sampled_from(["0", "1", "01", "-1", "1 ", "１", str(SIZE_MAX), str(SIZE_MAX + 1)])
ROOTS = st.sampled_from([B64, B64[:-1], B64 + "=", TWIN])
ENDS = st.sampled_from(["", "x\n", "\n", "x"])


@given(st.tuples(LINES, SIZES, ROOTS, ENDS).map("\n".join))
def test_an_accepted_checkpoint_text_has_one_spelling(text: str) -> None:
    try:
        checkpoint = Checkpoint.parse(text)
    except CheckpointMalformedError:
        return
    assert checkpoint.to_text() == text


PIECES = st.sampled_from(
    [LINE, PETER_LINE, *(f"— a AAAAAA{end}" for end in ("A=\n", "B=\n", "AA\n", "A=", "A\n"))]
)


@given(TEXTS, st.sampled_from(["\n", "\n\n", ""]), st.lists(PIECES, min_size=1, max_size=4))
def test_accepted_bytes_have_one_spelling(text: str, blank: str, lines: list[str]) -> None:
    data = f"{text}{blank}{''.join(lines)}".encode()
    try:
        accepted = Note.parse(data)
    except NoteMalformedError:
        return
    assert accepted.to_bytes() == data


@given(st.binary())
def test_arbitrary_bytes_are_refused_like_any_malformed_note(data: bytes) -> None:
    with pytest.raises(LedgerError):
        open_checkpoint(data, ORIGIN, verifiers(LOG))


def test_enough_witnesses_must_have_cosigned_and_each_counts_once() -> None:
    other = SignerKey("w2.example", bytes(range(7, 39)), Algorithm.COSIGNATURE_V1)
    renewed = SignerKey(WITNESS.name, bytes(range(8, 40)), Algorithm.COSIGNATURE_V1)
    both = COSIGNED.with_signatures([renewed.cosign(TEXT, NOON)]).to_bytes()
    found = open_checkpoint(both, ORIGIN, verifiers(LOG), verifiers(WITNESS, renewed, other))
    found.require_witnesses(0)
    found.require_witnesses(1)
    with pytest.raises(CosignaturesTooFewError) as few:
        found.require_witnesses(2)
    assert WITNESS.name in few.value.sentence_en
    nobody = open_checkpoint(both, ORIGIN, verifiers(LOG), verifiers(other))
    with pytest.raises(CosignaturesTooFewError):
        nobody.require_witnesses(1)
