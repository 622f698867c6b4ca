"""`wenming check-certificate` as people run it: three kinds of file, no ledger, no network."""

import socket
from pathlib import Path

import pytest

from api.certificate_pdf import render
from ledger.checkpoint import Algorithm, SignerKey
from ledger.personal_numbers import check_character
from tests.certificates.paper import (
    HOLDER,
    ISSUER_KEY,
    LOG_KEY,
    NUMBER,
    STRANGER,
    WITNESS,
    Office,
    sheet,
)
from tests.cli import Done, wenming

VKEY = LOG_KEY.verifier_key.to_text()
CLAIM = Office().record().claim


@pytest.fixture(autouse=True)
def _no_network_and_no_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a certificate is checked offline")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("WENMING_DATABASE", "sqlite:////nowhere/at-all.db")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def pdf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("paper") / "certificate.pdf"
    file.write_bytes(render(sheet()))
    return file


def written(name: str, data: bytes) -> Path:
    file = Path(name)
    file.write_bytes(data)
    return file


def refused(done: Done, *said: str, code: str = "CERTIFICATE_WRONG") -> None:
    assert done.code == 1
    assert done.err.startswith(f"{code}  ")
    assert done.out == ""
    for one in said:
        assert one in done.err


def test_a_genuine_pdf_is_recognised_by_the_log_s_key_alone(pdf: Path) -> None:
    """T36, L21, F26."""
    done = wenming("check-certificate", pdf, "--vkey", VKEY)
    assert (done.code, done.err) == (0, "")
    for said in (
        "✓ 证明是真的",
        NUMBER,
        "王*喆",
        "12:30（750 分钟 minutes）",
        "2026-01-01 — 2026-11-20",
        "2026-11-24，依据账本第 18 条",
        "机核 machine 0:30，确认 confirmed 10:00，补录 backfilled 2:00，导入 imported 0:00",
        ISSUER_KEY.verifier_key.label,
        "检查点 as of    18 条 facts",
        "only the status page tells",
        "Compare all of this with what is printed",
    ):
        assert said in done.out, said
    assert HOLDER.name not in done.out
    assert str(HOLDER.id_number) not in done.out


def test_the_record_alone_is_enough() -> None:
    done = wenming("check-certificate", written("record.json", Office().record().to_bytes()), "--vkey", VKEY)
    assert (done.code, done.err) == (0, "")
    assert "✓ 证明是真的" in done.out


@pytest.mark.parametrize(
    "text", [CLAIM, f"https://wenming.example/verify/{NUMBER}#{CLAIM}\n", f"  {CLAIM}\n"]
)
def test_the_text_of_a_qr_code_is_checked_with_the_issuer_s_key(text: str) -> None:
    file = written("qr.txt", text.encode())
    done = wenming("check-certificate", file, "--vkey", VKEY, "--vkey", ISSUER_KEY.verifier_key.to_text())
    assert (done.code, done.err) == (0, "")
    for said in (
        "✓ 二维码是真的",
        NUMBER,
        "12:30",
        "only the status page tells",
        "neither a name nor the log's proof",
    ):
        assert said in done.out


def test_a_qr_code_proves_nothing_to_the_log_s_key() -> None:
    refused(
        wenming("check-certificate", written("qr.txt", CLAIM.encode()), "--vkey", VKEY),
        "none of the keys given",
    )


def test_a_qr_code_whose_address_names_another_certificate_is_refused() -> None:
    file = written("qr.txt", f"https://wenming.example/verify/2026-00000-00000-H#{CLAIM}".encode())
    refused(wenming("check-certificate", file, "--vkey", ISSUER_KEY.verifier_key.to_text()), "another number")


@pytest.mark.parametrize(
    "option",
    [("--name", "王玥喆"), ("--id-number", HOLDER.id_number), ("--witness", WITNESS.verifier_key.to_text())],
)
def test_a_qr_code_cannot_tell_names_and_witnesses(option: tuple[str, str]) -> None:
    file = written("qr.txt", CLAIM.encode())
    done = wenming("check-certificate", file, "--vkey", ISSUER_KEY.verifier_key.to_text(), *option)
    refused(done, "use the PDF", code="INVALID_REQUEST")


def test_a_name_is_compared(pdf: Path) -> None:
    done = wenming("check-certificate", pdf, "--vkey", VKEY, "--name", " 王玥喆")
    assert done.code == 0
    assert "与所给姓名一致" in done.out
    refused(wenming("check-certificate", pdf, "--vkey", VKEY, "--name", "王玥"), "another name")


def test_an_identity_number_is_compared_where_the_holder_had_it_shown() -> None:
    """L19, L20."""
    whole = written("whole.json", Office().record(with_id_number=True).to_bytes())
    done = wenming("check-certificate", whole, "--vkey", VKEY, "--id-number", "11010519491231002x")
    assert done.code == 0, done.err
    assert "证件号码一致" in done.out
    other_number = f"11010519491231003{check_character('11010519491231003')}"
    other = wenming("check-certificate", whole, "--vkey", VKEY, "--id-number", other_number)
    refused(other, "another identity number")
    refused(wenming("check-certificate", whole, "--vkey", VKEY, "--id-number", "1"), code="ID_NUMBER_INVALID")


def test_a_copy_that_does_not_show_the_identity_number_says_so(pdf: Path) -> None:
    done = wenming("check-certificate", pdf, "--vkey", VKEY, "--id-number", "11010519491231002X")
    refused(done, "does not show the identity number", code="INVALID_REQUEST")


def test_a_witness_that_must_have_cosigned_has(pdf: Path) -> None:
    done = wenming("check-certificate", pdf, "--vkey", VKEY, "--witness", WITNESS.verifier_key.to_text())
    assert done.code == 0
    assert f"{WITNESS.name}，2026-" in done.out
    other = SignerKey("witness.example/2", bytes(32), Algorithm.COSIGNATURE_V1).verifier_key.to_text()
    both = ("--witness", WITNESS.verifier_key.to_text(), "--witness", other)
    refused(wenming("check-certificate", pdf, "--vkey", VKEY, *both), code="COSIGNATURES_TOO_FEW")
    assert wenming("check-certificate", pdf, "--vkey", VKEY, *both, "--witnesses-min", 1).code == 0


def test_another_log_s_key_believes_nothing(pdf: Path) -> None:
    refused(
        wenming("check-certificate", pdf, "--vkey", STRANGER.verifier_key.to_text(), "--origin", LOG_KEY.name)
    )
    refused(
        wenming("check-certificate", pdf, "--vkey", VKEY, "--origin", "ledger.example/other"), "another log"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff\xd8\xff",
        b"{}",
        b"%PDF-1.7 nothing",
        b"#",
        CLAIM.encode() + b"A",
        b"%PDF-" + bytes(20_000_000),
    ],
    ids=["empty", "text", "picture", "json", "pdf", "fragment", "longer", "huge"],
)
def test_what_is_no_certificate_is_refused_in_two_sentences(data: bytes) -> None:
    done = wenming("check-certificate", written("x", data), "--vkey", VKEY)
    refused(done)
    assert "Traceback" not in done.err
    assert len(done.err) < 1_000


def test_a_forged_record_in_a_pdf_is_refused() -> None:
    forged = Office().record(minutes=75_000).to_bytes()
    refused(
        wenming("check-certificate", written("f.pdf", render(sheet(record=forged))), "--vkey", VKEY),
        "does not say",
    )


def test_without_a_key_nothing_is_checked(pdf: Path) -> None:
    refused(wenming("check-certificate", pdf), "--vkey", code="INVALID_REQUEST")


def test_a_file_that_is_not_there_is_named() -> None:
    done = wenming("check-certificate", "missing.pdf", "--vkey", VKEY)
    assert done.code == 1
    assert "missing.pdf" in done.err
