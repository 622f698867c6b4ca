"""The certificate as a PDF: a sheet of what it says goes in, the same bytes come out, whenever and wherever.

PDF/A-3a with the offline record attached. What may not live here: the ledger, clocks and settings; every value that
is printed stands in the `Sheet`.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from importlib.resources import files
from io import BytesIO
from itertools import islice
from typing import Any

import segno
import typst
from pypdf import PdfReader

from ledger.errors import CertificateWrongError, GlyphMissingError
from ledger.rulebook import CHINA

TEMPLATE_VERSION = 1
"""Printed certificates name it: another template, typeface or engine gives other bytes."""
RECORD_NAME = "record.json"
ATTACHMENTS_MAX = 20
"""How many attachments of a PDF are looked at."""
ADDRESS_ON_ONE_LINE = 56
"""Characters of an address that fit on a line beside the QR code."""
KINDS = {
    "theory": "理论宣讲",
    "culture": "文化服务",
    "schooling": "助学支教",
    "health": "医疗健身",
    "science": "科普宣传",
    "law": "法律服务",
    "ecology": "生态环保",
    "relief": "扶贫帮困",
    "other": "其他",
}
CLASSES = {"machine": "机核", "confirmed": "确认", "backfilled": "补录", "imported": "导入"}


@dataclass(frozen=True)
class ServiceLine:
    """One entry that stands in the account, and its position in the log. Kind and class are codes."""

    served_on: date
    activity_kind: str
    unit_name: str
    minutes: int
    source_class: str
    position: int


@dataclass(frozen=True)
class Sheet:
    """Everything a certificate shows. Both days are included; ``root_hex`` has 64 digits; times are instants."""

    number: str
    county_name: str
    holder_name: str
    id_number_masked: str | None
    volunteer_number: str
    first_on: date
    last_on: date
    issued_on: date
    services: int
    minutes: int
    minutes_by_class: Mapping[str, int]
    """By source class; they add up to ``minutes``."""
    lines: tuple[ServiceLine, ...]
    lines_left_out: int
    """How many lines are not shown; without any, the lines add up to ``minutes``."""
    issuer_name: str
    check_url: str
    """What the QR code holds: ``{public_url}/verify/{number}#{claim}``."""
    origin: str
    tree_size: int
    root_hex: str
    as_of_position: int
    as_of_at: datetime
    replaces_number: str | None
    record: bytes
    """`ledger.certificates.Record.to_bytes`."""


def render(sheet: Sheet) -> bytes:
    """The certificate: PDF/A-3a and PDF/UA-1, the record attached; one sheet always gives the same bytes.

    GLYPH_MISSING names the characters that the typefaces lack.
    """
    words = _words(sheet)
    require_glyphs(words)
    pdf = typst.compile(
        files("api").joinpath("templates/certificate.typ").read_bytes(),
        font_paths=_fonts(),
        sys_inputs={
            "sheet": json.dumps(words),
            "record": sheet.record.decode(),
            "qr": _qr(sheet.check_url),
        },
        pdf_standards=["a-3a", "ua-1"],
        timestamp=0,
    )
    assert isinstance(pdf, bytes)
    return pdf


def attached_record(pdf: bytes) -> bytes:
    """The record in a PDF from anywhere. CERTIFICATE_WRONG if it cannot be read, or has not exactly one.

    The file may be hostile: the reader is pure Python, and unpacks no stream to more than its limit of 75 MB.
    What it finds irregular it would log line by line; here it is one refusal or nothing.
    """
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        attachments = islice(PdfReader(BytesIO(pdf)).attachment_list, ATTACHMENTS_MAX)
        found = [one.content for one in islice((one for one in attachments if one.name == RECORD_NAME), 2)]
    except Exception:  # the reader promises no list of what a broken file raises
        raise CertificateWrongError(
            problem_zh="PDF 文件无法读取", problem_en="the PDF cannot be read"
        ) from None
    if len(found) != 1:
        raise CertificateWrongError(
            problem_zh=f"PDF 中应恰有一份 {RECORD_NAME}",
            problem_en=f"the PDF has not exactly one {RECORD_NAME} attached",
        )
    return found[0]


def require_glyphs(value: object) -> None:
    """Refuse characters that a typeface lacks, each with its code point: no box is ever printed. GLYPH_MISSING."""
    missing = dict.fromkeys(one for text in _texts(value) for one in text if one not in _covered())
    if missing:
        raise GlyphMissingError(
            characters=[f"{one if one.isprintable() else ''}（U+{ord(one):04X}）" for one in missing]
        )


def hours(minutes: int) -> str:
    """Minutes as they are printed: whole hours and minutes, so that lines add up to their sum."""
    return f"{minutes // 60:,}:{minutes % 60:02}"


# --- what is printed -------------------------------------------------------------------------------------------------


def _words(sheet: Sheet) -> dict[str, Any]:
    """What the template sets: plain texts, in its order."""
    return {
        "title": f"志愿服务记录证明 {sheet.number}",
        "county_name": sheet.county_name,
        "number": sheet.number,
        "issued": [sheet.issued_on.year, sheet.issued_on.month, sheet.issued_on.day],
        "issued_on": _day(sheet.issued_on),
        "statement": list(_statement(sheet)),
        "replaces": sheet.replaces_number and f"本证明替代此前出具的证明（编号 {sheet.replaces_number}）。",
        "classes": [
            *([CLASSES[name], hours(sheet.minutes_by_class.get(name, 0))] for name in CLASSES),
            ["合计", hours(sheet.minutes)],
        ],
        "classes_note": "时:分。机核：到离由设备核验；确认：由未参加服务的记录人确认；"
        "补录：事后登记，另一人审批；导入：由其他系统转入。",
        "lines": [_cells(number, line) for number, line in enumerate(sheet.lines, 1)],
        "sums": list(_sums(sheet)),
        "checks": list(_checks(sheet)),
        "qr_alt": f"查验二维码：{sheet.check_url}",
        "issuer_name": sheet.issuer_name,
        "attachment": "供离线查验的签发记录 · offline record of the certificate",
        "continued": f"{sheet.holder_name} · 合计 {hours(sheet.minutes)}（时:分）",
        "footer": f"编号 {sheet.number} · 数据截至账本第 {sheet.as_of_position:,} 条（{_instant(sheet.as_of_at)}）",
    }


def _statement(sheet: Sheet) -> Iterator[tuple[str, bool]]:
    """The sentence that certifies, in pieces; True is set in bold."""
    document = f"居民身份证 {sheet.id_number_masked}，" if sheet.id_number_masked else ""
    whole, rest = divmod(sheet.minutes, 60)
    yield "兹证明 ", False
    yield sheet.holder_name, True
    yield f"（{document}志愿者编号 {sheet.volunteer_number}）于 ", False
    yield f"{_day(sheet.first_on)}至{_day(sheet.last_on)}", True
    yield "期间，参加新时代文明实践志愿服务 ", False
    yield f"{sheet.services:,}", True
    yield " 次，累计志愿服务时间 ", False
    yield f"{whole:,} 小时 {rest} 分钟" if rest else f"{whole:,} 小时", True
    yield f"（共 {sheet.minutes:,} 分钟），记录单位为{sheet.issuer_name}。特此证明。", False


def _cells(number: int, line: ServiceLine) -> list[str]:
    shown = hours(line.minutes), CLASSES[line.source_class], f"{line.position:,}"
    return [str(number), line.served_on.isoformat(), KINDS[line.activity_kind], line.unit_name, *shown]


def _sums(sheet: Sheet) -> Iterator[tuple[str, str]]:
    """Lines below the table; what is not listed has its own, so that the column always adds up."""
    listed = sum(line.minutes for line in sheet.lines)
    if sheet.lines_left_out:
        yield f"以上 {len(sheet.lines):,} 条小计", hours(listed)
        yield f"其余 {sheet.lines_left_out:,} 条（未列出）", hours(sheet.minutes - listed)
    yield "合计", hours(sheet.minutes)


def _checks(sheet: Sheet) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """How the certificate is checked, in pieces; True is never broken over two lines."""
    page, _, _ = sheet.check_url.partition("#")
    root = [" ".join(sheet.root_hex[at : at + 8] for at in range(half, half + 32, 8)) for half in (0, 32)]
    tree = f"第 {sheet.as_of_position:,} 条，由含 {sheet.tree_size:,} 条的签名检查点证明。"
    yield (
        "联网",
        [
            ("扫描右侧二维码，或访问 ", False),
            (page, len(page) <= ADDRESS_ON_ONE_LINE),
            (" 核对编号、姓名与时长，并看此后是否更正或撤销。查验页不显示证件号码。", False),
        ],
    )
    yield (
        "离线",
        [
            ("本文件附有签发记录 record.json，凭账本的公钥运行 ", False),
            ("wenming check-certificate", True),
            (" 即可核对真伪，无需联网。", False),
        ],
    )
    yield "依据", [(f"账本 {sheet.origin} 截至{tree}", False)]
    yield "树根", [(root[0], True), (" ", False), (root[1], True)]
    yield "说明", [("本证明依据民政部令第67号出具，不收取任何费用。", False)]


def _qr(content: str) -> str:
    out = BytesIO()
    segno.make(content, micro=False, error="m").save(out, kind="svg", xmldecl=False, border=4)
    return out.getvalue().decode()


def _day(day: date) -> str:
    return f"{day.year} 年 {day.month} 月 {day.day} 日"


def _instant(instant: datetime) -> str:
    return f"{instant.astimezone(CHINA):%Y-%m-%d %H:%M:%S}，北京时间"


# --- typefaces -------------------------------------------------------------------------------------------------------


@cache
def _fonts() -> typst.Fonts:
    """Ours alone, read once: what is installed on the machine changes nothing."""
    folder = str(files("api").joinpath("fonts"))
    return typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[folder])


@cache
def _covered() -> frozenset[str]:
    """The characters that every typeface has."""
    return frozenset(files("api").joinpath("fonts/covered.txt").read_text("utf-8")) - {"\n"}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)
