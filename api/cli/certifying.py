"""`wenming check-certificate`: whether a certificate is genuine, with no database, no network and nobody's word."""

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated
from unicodedata import normalize

import typer

from api.certificate_pdf import attached_record, hours
from api.cli.shown import say
from api.cli.signing import VerifierKeys, WitnessesMin, WitnessKeys, given_keys
from api.public_check import masked
from ledger.certificates import CheckedCertificate, Claim, Record, ShownHolder, SignedClaim, require_number
from ledger.checkpoint import VerifierKey
from ledger.errors import CertificateWrongError, InvalidRequestError
from ledger.personal_numbers import normal_id_number

FILE_BYTES_MAX = 20_000_000
LATER = (
    "此后是否更正或撤销，只有查验页知道。",
    "Whether it was corrected or revoked since, only the status page tells.",
)


def check_certificate(
    file: Annotated[
        Path, typer.Argument(help="The PDF, its record.json, or a file with the text of its QR code.")
    ],
    vkey: VerifierKeys = None,
    origin: Annotated[
        str | None, typer.Option(help="The log's name; that of the first key if left out.")
    ] = None,
    witness: WitnessKeys = None,
    witnesses_min: WitnessesMin = None,
    name: Annotated[
        str | None, typer.Option(help="Check that it was issued to somebody of this name.")
    ] = None,
    id_number: Annotated[
        str | None, typer.Option(help="Check that it was issued to the holder of this identity number.")
    ] = None,
) -> None:
    """Check a certificate, here and now: no database, no network, nobody's word but the public key's.

    A QR code holds no proof, only what the issuer signed: for its text, give the issuer's key instead of the log's.
    """
    keys = given_keys(vkey, witness, witnesses_min)
    if not keys.log:
        raise InvalidRequestError(problem="give the log's public key with --vkey")
    with file.open("rb") as opened:
        data = opened.read(FILE_BYTES_MAX + 1)
    if (record := _record_in(data)) is None:
        if name is not None or id_number is not None or witness:
            raise InvalidRequestError(
                problem="the text of a QR code proves no name and no witness; use the PDF"
            )
        _check_claim(data, keys.log)
        return
    checked = record.check(keys.log, origin or keys.log[0].name, keys.witnesses)
    checked.opened.require_witnesses(keys.witnesses_min)
    _require_holder(checked.holder, name, id_number)
    _show(checked, name is not None, id_number is not None)
    say(
        f"  文件 SHA-256 {sha256(data).hexdigest()}",
        "  请与纸面逐项核对。 Compare all of this with what is printed.",
    )


# --- what was given --------------------------------------------------------------------------------------------------


def _record_in(data: bytes) -> Record | None:
    """The record in a PDF or a file of its own; None for anything else. CERTIFICATE_WRONG."""
    if len(data) > FILE_BYTES_MAX:
        raise CertificateWrongError(
            problem_zh=f"文件超过 {FILE_BYTES_MAX:,} 字节",
            problem_en=f"the file is larger than {FILE_BYTES_MAX:,} bytes",
        )
    if data.startswith(b"%PDF-"):
        return Record.parse(attached_record(data))
    return Record.parse(data) if data.startswith(b"{") else None


def _claim_in(data: bytes) -> SignedClaim:
    """The claim of a QR code's text, ``…/verify/{number}#{claim}`` or the claim alone. CERTIFICATE_WRONG."""
    page, _, text = data.decode(errors="replace").strip().rpartition("#")
    signed = SignedClaim.parse(text)
    if page and require_number(page.rpartition("/")[2]) != signed.claim.number:
        raise CertificateWrongError(
            problem_zh="网址中的编号与声明不符", problem_en="the address names another number than the claim"
        )
    return signed


# --- what is asked ---------------------------------------------------------------------------------------------------


def _require_holder(holder: ShownHolder, name: str | None, id_number: str | None) -> None:
    if name is not None and normalize("NFC", name.strip()) != holder.name:
        raise CertificateWrongError(
            problem_zh="持有人不是此姓名", problem_en="it was issued under another name"
        )
    if id_number is None:
        return
    wanted = normal_id_number(id_number)
    if holder.id_number_key is None:
        raise InvalidRequestError(
            problem="this copy does not show the identity number; its holder can have one made that does"
        )
    if wanted != holder.id_number:
        raise CertificateWrongError(
            problem_zh="持有人不是此证件号码，或证明不含证件号码",
            problem_en="it was issued to the holder of another identity number, or names none",
        )


# --- what is shown ---------------------------------------------------------------------------------------------------


def _check_claim(data: bytes, keys: list[VerifierKey]) -> None:
    signed = _claim_in(data)
    key = signed.verify(keys)
    say(
        "✓ 二维码是真的。 The QR code is genuine.",
        *_claim_lines(signed.claim),
        f"  签发密钥 issuer {key.label}",
        "  二维码不含姓名和账本证明；完整核对请用 PDF。",
        "  It holds neither a name nor the log's proof; check the PDF for those.",
        *(f"  {line}" for line in LATER),
    )


def _show(checked: CheckedCertificate, name_checked: bool, number_checked: bool) -> None:
    fact, opened = checked.fact, checked.opened
    tree, log_key = opened.checkpoint, opened.log_signatures[0].key
    by_class = zip(
        ("机核 machine", "确认 confirmed", "补录 backfilled", "导入 imported"),
        (fact.minutes_machine, fact.minutes_confirmed, fact.minutes_backfilled, fact.minutes_imported),
        strict=True,
    )
    say(
        "✓ 证明是真的。 The certificate is genuine.",
        *_claim_lines(checked.claim),
        f"  姓名 name       {masked(checked.holder.name)}{'  ✓ 与所给姓名一致 as given' if name_checked else ''}",
        f"  志愿者 number   {fact.volunteer_number}{'  ✓ 证件号码一致 identity as given' if number_checked else ''}",
        f"  次数 services   {fact.services:,}",
        f"  构成 of these   {'，'.join(f'{word} {hours(minutes)}' for word, minutes in by_class)}",
        f"  签发密钥 issuer {checked.issuer_key.label}",
        f"  账本 log        {tree.origin}，第 {checked.position:,} 条 position",
        f"  检查点 as of    {tree.size:,} 条 facts，{log_key.label} 签名 signed",
        *(
            f"  见证 witness    {one.key.name}，{datetime.fromtimestamp(one.time_seconds or 0, UTC):%Y-%m-%dT%H:%M:%SZ}"
            for one in opened.cosignatures
        ),
        *(f"  {line}" for line in LATER),
    )


def _claim_lines(claim: Claim) -> tuple[str, ...]:
    return (
        f"  编号 number     {claim.number}",
        f"  时长 time       {hours(claim.minutes)}（{claim.minutes:,} 分钟 minutes）",
        f"  期间 period     {claim.first_on} — {claim.last_on}",
        f"  出具 issued     {claim.issued_on}，依据账本第 {claim.as_of_position:,} 条 as of position",
    )
