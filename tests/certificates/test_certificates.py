"""Numbers, claims and records: what is genuine holds, and every forged part is refused with what is wrong."""

from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.certificates import (
    RECORD_BYTES_MAX,
    Claim,
    Holder,
    ProvenFact,
    Record,
    SignedClaim,
    commitment,
    number_of,
    require_number,
)
from ledger.checkpoint import SignerKey
from ledger.codec import canonical_json
from ledger.errors import CertificateNumberWrongError, CertificateWrongError, NoteKeyMalformedError, Refusal
from tests.certificates.paper import (
    HOLDER,
    ISSUER_KEY,
    LEDGER_ID,
    LOG_KEY,
    NUMBER,
    ORIGIN,
    SIGNED_SECONDS,
    STRANGER,
    WITNESS,
    Office,
    issued_state,
    registered_state,
)

KEYS = (LOG_KEY.verifier_key,)
SYMBOLS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
numbers = st.builds(number_of, st.binary(min_size=8, max_size=32), st.integers(1000, 9999))
days = st.dates()


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_number_follows_from_its_digest() -> None:
    assert number_of(bytes(32), 2026) == number_of(bytes(8), 2026) == "2026-00000-00000-H"
    assert number_of(b"\xff" * 8, 1999).startswith("1999-ZZZZZ-ZZZZZ-")


@pytest.mark.parametrize(("digest", "year"), [(bytes(7), 2026), (bytes(8), 999), (bytes(8), 10_000)])
def test_no_number_is_made_from_too_little_or_for_a_year_of_other_than_four_digits(
    digest: bytes, year: int
) -> None:
    with pytest.raises(ValueError, match="made from 8 bytes"):
        number_of(digest, year)


@given(number=numbers)
def test_a_number_is_read_however_people_write_it(number: str) -> None:
    full_width = "".join(chr(ord(one) + 0xFEE0) if one.isalnum() else one for one in number)
    misread = number.replace("0", "o").replace("1", "l")
    for written in (
        number,
        number.lower(),
        number.replace("-", " "),
        number.replace("-", ""),
        full_width,
        misread,
    ):
        assert require_number(f" {written}\n") == number
    assert require_number(number.replace("1", "I").replace("0", "O").replace("-", "—")) == number


@given(number=numbers, at=st.integers(0, 17), other=st.sampled_from(SYMBOLS))
def test_one_wrong_symbol_is_a_typo_and_never_another_number(number: str, at: int, other: str) -> None:
    wrong = number[:at] + other + number[at + 1 :]
    if wrong.replace("-", "") == number.replace("-", ""):
        return
    with pytest.raises(CertificateNumberWrongError):
        require_number(wrong)


@given(number=numbers, first=st.integers(0, 14), second=st.integers(0, 14))
def test_two_symbols_that_changed_places_are_a_typo(number: str, first: int, second: int) -> None:
    symbols = list(number.replace("-", ""))
    symbols[first], symbols[second] = symbols[second], symbols[first]
    swapped = "".join(symbols)
    if swapped == number.replace("-", ""):
        return
    with pytest.raises(CertificateNumberWrongError):
        require_number(swapped)


@pytest.mark.parametrize(
    "text", ["", "2026", f"{NUMBER}{NUMBER}", "U" * 15, "2026-7K3F9-QPD2M-", "x" * 9_999]
)
def test_what_is_no_number_is_refused_with_how_one_looks(text: str) -> None:
    with pytest.raises(CertificateNumberWrongError, match="2026-7K3F9-QPD2M-X"):
        require_number(text)


# --- the holder ------------------------------------------------------------------------------------------------------


def test_the_commitment_is_the_formula_of_its_docstring() -> None:
    label, salt = b"volunteer-ledger/certificate-holder/v1\x00", bytes(16)

    def part(which: bytes, text: bytes) -> bytes:
        key = sha256(label + b"key\0" + salt + which).digest()
        return sha256(label + b"part\0" + key + text).digest()

    for number, text in ((None, b"\0"), ("1", b"\x011")):
        parts = part(b"name", b"\1\xe7\x8e\x8b") + part(b"id number", text)
        assert commitment(salt, "王", number) == sha256(label + b"both\0" + parts).hexdigest()


people = st.tuples(st.binary(min_size=16, max_size=16), st.text(max_size=5), st.none() | st.text(max_size=5))


@given(one=people, other=people)
def test_nobody_else_opens_a_commitment(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """Name and number are told apart however they are cut, and no number is not an empty one."""
    assert (commitment(*one) == commitment(*other)) == (one == other)


def test_lengths_keep_name_and_number_apart() -> None:
    assert commitment(bytes(16), "王1", "2") != commitment(bytes(16), "王", "12")
    assert commitment(bytes(16), "王", "") != commitment(bytes(16), "王", None)


holders = st.builds(
    Holder,
    name=st.text(max_size=5),
    id_number=st.none() | st.text(max_size=5),
    salt=st.binary(min_size=16, max_size=16).map(bytes.hex),
)


@given(holder=holders, with_id_number=st.booleans())
def test_what_is_shown_of_a_holder_opens_their_commitment_and_no_other(
    holder: Holder, with_id_number: bool
) -> None:
    shown = holder.shown(with_id_number)
    assert shown.opens(holder.commitment)
    assert shown.name == holder.name
    assert shown.id_number == (holder.id_number if with_id_number else None)
    assert not shown.opens(holder.model_copy(update={"name": holder.name + "x"}).commitment)
    assert not shown.opens(holder.model_copy(update={"id_number": f"{holder.id_number}x"}).commitment)


def test_an_identity_number_that_is_not_shown_cannot_be_tried_out() -> None:
    """L20: whoever has the PDF has neither the salt nor the number's key, so not every number can be tried."""
    shown = HOLDER.shown().model_dump_json()
    number_key = HOLDER.shown(with_id_number=True).id_number_key
    assert str(HOLDER.id_number) not in shown
    assert HOLDER.salt not in shown
    assert str(number_key) not in shown


def test_a_number_without_its_key_is_not_believed() -> None:
    assert not HOLDER.shown().model_copy(update={"id_number": HOLDER.id_number}).opens(HOLDER.commitment)


def test_a_name_without_a_number_says_that_there_is_none_only_with_the_key() -> None:
    nobody = HOLDER.model_copy(update={"id_number": None})
    assert nobody.shown(with_id_number=True).opens(nobody.commitment)
    assert not nobody.shown(with_id_number=True).opens(HOLDER.commitment)


def test_a_salt_of_another_length_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        commitment(bytes(15), "王", None)


# --- the claim -------------------------------------------------------------------------------------------------------

claims = st.builds(
    Claim,
    ledger_id=st.uuids(),
    number=numbers,
    minutes=st.integers(0, 2**32 - 1),
    first_on=days,
    last_on=days,
    issued_on=days,
    as_of_position=st.integers(0, 2**63),
    commitment=st.binary(min_size=32, max_size=32).map(bytes.hex),
)


@given(claim=claims)
def test_every_claim_is_read_back_and_fits_a_qr_code(claim: Claim) -> None:
    text = claim.sign(ISSUER_KEY)
    signed = SignedClaim.parse(text)
    assert signed.claim == claim
    assert signed.to_text() == text
    assert len(text) == 196
    assert signed.verify([STRANGER.verifier_key, ISSUER_KEY.verifier_key]) == ISSUER_KEY.verifier_key


@settings(max_examples=300)
@given(at=st.integers(0, 195), other=st.characters())
def test_a_claim_with_any_character_changed_is_refused(at: int, other: str) -> None:
    text = Claim.of_state(LEDGER_ID, issued_state()).sign(ISSUER_KEY)
    if text[at] == other:
        return
    with pytest.raises(CertificateWrongError):
        SignedClaim.parse(text[:at] + other + text[at + 1 :]).verify([ISSUER_KEY.verifier_key])


@given(text=st.text(max_size=300))
def test_no_text_is_a_claim_by_chance(text: str) -> None:
    with pytest.raises(CertificateWrongError):
        SignedClaim.parse(text)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"\x02"),  # another form
        (17, b"\x00\x09"),  # the year 9
        (17, b"\xff\xff"),  # the year 65535
        (19, b"\xff"),  # a code of more than 50 bits
        (30, b"\x00\x00\x00"),  # the day before the calendar
        (33, b"\xff\xff\xff"),  # a day after it
    ],
)
def test_a_claim_of_what_cannot_be_is_refused(at: int, value: bytes) -> None:
    body = Claim.of_state(LEDGER_ID, issued_state()).to_bytes()
    body = body[:at] + value + body[at + len(value) :]
    with pytest.raises(CertificateWrongError, match="form"):
        SignedClaim.parse(urlsafe_b64encode(body + bytes(68)).decode())


def test_a_claim_signed_by_another_key_is_refused() -> None:
    signed = SignedClaim.parse(Claim.of_state(LEDGER_ID, issued_state()).sign(STRANGER))
    with pytest.raises(CertificateWrongError, match="none of the keys"):
        signed.verify([ISSUER_KEY.verifier_key])


def test_a_claim_is_not_what_a_log_signs() -> None:
    """Domain separation: a checkpoint's signature never stands for a claim."""
    claim = Claim.of_state(LEDGER_ID, issued_state())
    signature = ISSUER_KEY.sign(f"{ORIGIN}\n18\n{'A' * 43}=\n")
    with pytest.raises(CertificateWrongError, match="signature"):
        SignedClaim(claim, signature.key_id, signature.value).verify([ISSUER_KEY.verifier_key])


def test_the_day_of_issue_is_the_county_s_day() -> None:
    assert Claim.of_state(LEDGER_ID, issued_state()).issued_on == date(2026, 11, 24)


@pytest.mark.parametrize(
    "state",
    [b"", b"[]", b"{}", issued_state(minutes=-1), issued_state(minutes="750"), issued_state(commitment="ab")],
)
def test_no_claim_is_made_of_what_is_no_certificate(state: bytes) -> None:
    with pytest.raises(CertificateWrongError, match="cannot be read"):
        Claim.of_state(LEDGER_ID, state)


# --- the record ------------------------------------------------------------------------------------------------------


def test_a_genuine_record_holds_with_the_log_s_public_key_alone() -> None:
    """T36: no server, no database; L21."""
    data = Office().record().to_bytes()
    checked = Record.parse(data).check(KEYS, ORIGIN)
    assert checked.claim == Claim.of_state(LEDGER_ID, issued_state())
    assert (checked.holder, checked.position, checked.fact.services) == (HOLDER.shown(), 18, 6)
    assert checked.issuer_key == ISSUER_KEY.verifier_key
    assert checked.opened.checkpoint.size == 18
    assert not checked.opened.witness_names


def test_known_witnesses_are_named_with_their_time() -> None:
    checked = Office().record().check(KEYS, ORIGIN, [WITNESS.verifier_key])
    assert checked.opened.witness_names == {WITNESS.name}
    assert checked.opened.cosignatures[0].time_seconds == SIGNED_SECONDS


def test_a_key_may_be_registered_after_the_certificate_was_issued_and_before_it_is_printed() -> None:
    office = Office()
    office.facts[2], office.facts[-1] = office.facts[-1], office.facts[2]
    assert office.record().check(KEYS, ORIGIN).position == 3


@settings(max_examples=500)
@given(at=st.integers(0), other=st.integers(0, 255), whole=st.booleans())
def test_a_record_with_any_byte_changed_is_refused(at: int, other: int, whole: bool) -> None:
    data = bytearray(WHOLE if whole else GENUINE)
    if data[at % len(data)] == other:
        return
    data[at % len(data)] = other
    with pytest.raises(CertificateWrongError):
        Record.parse(bytes(data)).check(KEYS, ORIGIN, [WITNESS.verifier_key])


@given(start=st.integers(0), length=st.integers(1, 400))
def test_a_record_with_a_part_cut_out_is_refused(start: int, length: int) -> None:
    start %= len(GENUINE)
    with pytest.raises(CertificateWrongError):
        Record.parse(GENUINE[:start] + GENUINE[start + length :]).check(KEYS, ORIGIN, [WITNESS.verifier_key])


GENUINE = Office().record().to_bytes()
WHOLE = Office().record(with_id_number=True).to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        GENUINE + b"\n",
        GENUINE.replace(b'"claim"', b'"Claim"'),
        GENUINE.replace("王".encode(), b"\\u738b"),
        b"[" * 100_000,
        b'{"claim":"' + b"a" * RECORD_BYTES_MAX + b'"}',
        canonical_json({**orjson.loads(GENUINE), "more": 1}),
        canonical_json({**orjson.loads(GENUINE), "format": "volunteer-ledger/certificate-record/v2"}),
    ],
)
def test_a_record_has_one_form(data: bytes) -> None:
    with pytest.raises(CertificateWrongError, match="form"):
        Record.parse(data)


def _swapped(office: Office, **parts: Any) -> Record:
    return office.record().model_copy(update=parts)


def _forged() -> dict[str, tuple[Callable[[], Record], str]]:
    """Each way to forge, and what the refusal says."""
    office = Office()
    other_number = number_of(b"another one", 2026)
    proven, raised = office.proven(office.issued), issued_state(minutes=75_000)
    elsewhere = "another certificate or ledger"
    return {
        "hours raised in the fact": (
            lambda: _swapped(office, issued=ProvenFact(state=raised.decode(), proof=proven.proof)),
            "not the fact that its proof is about",
        ),
        "hours raised in the claim": (lambda: office.record(minutes=75_000), "does not say what the fact"),
        "a claim about another certificate": (lambda: office.record(number=other_number), elsewhere),
        "a claim about another ledger": (lambda: office.record(ledger_id=UUID(int=1)), elsewhere),
        "another name": (
            lambda: _swapped(office, holder=HOLDER.shown().model_copy(update={"name": "王玥"})),
            "holder's details",
        ),
        "another identity number": (
            lambda: _swapped(office, holder=HOLDER.shown(True).model_copy(update={"id_number": "1"})),
            "holder's details",
        ),
        "a key that nobody registered (F25)": (lambda: office.record(STRANGER), "none of the keys"),
        "a log of one's own": (lambda: Office(log_key=STRANGER).record(), "fact of the certificate: None of"),
        "another log": (lambda: Office(origin="ledger.example/other").record(), "another log"),
        "a fact of another kind": (
            lambda: Office(issued=replace(office.issued, topic="unit.renamed")).record(),
            "not the fact that its proof is about",
        ),
        "not the first of its stream": (
            lambda: Office(issued=replace(office.issued, version=2)).record(),
            "not the fact that its proof is about",
        ),
        "a key's registration of another kind": (
            lambda: Office(registered=replace(office.registered, topic="unit.renamed")).record(),
            "registration of the issuer's key is not the fact",
        ),
        "a registration without a key": (
            lambda: Office(registered=replace(office.registered, state=b"{}")).record(),
            "registered key cannot be read",
        ),
        "a registration of no key": (
            lambda: Office(registered=replace(office.registered, state=registered_state("x"))).record(),
            "registered key is none",
        ),
        "proofs under two checkpoints": (
            lambda: _swapped(office, issuer_key=_earlier(office)),
            "different checkpoints",
        ),
        "no proof": (lambda: _swapped(office, issued=ProvenFact(state="{}", proof="")), "cannot be read"),
        "a broken proof": (
            lambda: _swapped(office, issued=ProvenFact(state=office.issued.state.decode(), proof="")),
            "not a proof of the form",
        ),
        "a claim of no form": (lambda: _swapped(office, claim="claim"), "has not the form"),
    }


def _earlier(office: Office) -> ProvenFact:
    earlier = Office()
    del earlier.facts[-1]
    return earlier.proven(office.registered)


FORGED = _forged()


@pytest.mark.parametrize("how", FORGED)
def test_every_forged_part_is_refused_with_what_is_wrong(how: str) -> None:
    """L21, F25."""
    forge, said = FORGED[how]
    with pytest.raises(CertificateWrongError, match=said) as refused:
        forge().check(KEYS, ORIGIN)
    assert "？" not in refused.value.sentence_zh
    assert "?" not in refused.value.sentence_en


def test_a_refusal_names_nobody() -> None:
    with pytest.raises(CertificateWrongError) as refused:
        _swapped(Office(), holder=HOLDER.shown().model_copy(update={"name": "李四"})).check(KEYS, ORIGIN)
    assert "李四" not in refused.value.sentence_zh + refused.value.sentence_en
    assert not isinstance(refused.value, Refusal)


def test_another_key_of_the_same_log_is_not_believed() -> None:
    with pytest.raises(CertificateWrongError):
        Office().record().check([SignerKey(ORIGIN, bytes(32)).verifier_key], ORIGIN)


def test_a_key_that_the_checker_gives_wrongly_is_not_the_certificate_s_fault() -> None:
    with pytest.raises(NoteKeyMalformedError, match="witness"):
        Office().record().check(KEYS, ORIGIN, [STRANGER.verifier_key])
