"""The public page that says whether a certificate holds today: no login, no script, no personal data beyond a mask."""

import re
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from importlib.resources import files
from typing import Literal

from fastapi import Response
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from ledger.rulebook import CHINA

Status = Literal["valid", "corrected", "superseded", "revoked"]
NameCheck = Literal["matches", "differs"]
Language = Literal["zh", "en"]

STYLESHEET_PATH = "/static/check.css"
"""Where `stylesheet` is to be mounted."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
    "Cache-Control": "no-store",
}
"""What goes with every page: no script, no frame, nothing from elsewhere, found by no search engine, kept nowhere."""
_PARTS = re.compile(r"([\s·•‧・．.\-]+)")


@dataclass(frozen=True)
class PublicCheck:
    """What anybody may know of a certificate. Days are local; ``status`` is the gravest that applies."""

    number: str
    status: Status
    masked_name: str | None
    """As `masked` gives it; None once the name was erased."""
    minutes: int
    services: int
    first_on: date
    last_on: date
    issued_on: date
    issuer_name: str
    county_name: str
    as_of_position: int
    touched: bool
    """Whether an entry of its period was corrected after it was issued."""
    replaced_by_number: str | None
    revoked_on: date | None
    position: int
    """Of `certificate.issued` in the log."""
    commitment: str
    pdf_sha256: tuple[str, ...]
    """Of every printed PDF, the newest last."""
    origin: str | None
    """With ``tree_size`` and ``root_hex``: the newest checkpoint that covers it; None before one does."""
    tree_size: int | None
    root_hex: str | None


# --- names -----------------------------------------------------------------------------------------------------------


def masked(name: str) -> str:
    """A name as strangers may see it: 王玥喆 is 王*喆, 王喆 is 王*; of several parts each keeps its first."""
    parts = _PARTS.split(name.strip())
    if len(parts) > 1:
        return "".join(part if at % 2 else part[:1] + "*" * (len(part) - 1) for at, part in enumerate(parts))
    if len(name.strip()) <= 2:
        return name.strip()[:1] + "*"
    whole = parts[0]
    return whole[0] + "*" * (len(whole) - 2) + whole[-1]


# --- pages -----------------------------------------------------------------------------------------------------------


def page(
    check: PublicCheck | None,
    name_check: NameCheck | None,
    language: Language,
    *,
    typed: str = "",
    checked_at: datetime | None = None,
) -> str:
    """The page of a certificate; without one, that nobody issued the number ``typed``."""
    kind = "unknown" if check is None else check.status
    return _html(kind, language, check=check, name_check=name_check, typed=typed, checked_at=checked_at)


def typo_page(typed: str, language: Language) -> str:
    """That ``typed`` cannot be a number: one of its characters is wrong, and nothing was looked up."""
    return _html("typo", language, typed=typed)


def stylesheet() -> Response:
    """The pages' stylesheet, to be served at ``STYLESHEET_PATH``."""
    return Response(
        files("api").joinpath("static/check.css").read_bytes(),
        media_type="text/css",
        headers={"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"},
    )


def _html(
    kind: str,
    language: Language,
    *,
    typed: str,
    check: PublicCheck | None = None,
    name_check: NameCheck | None = None,
    checked_at: datetime | None = None,
) -> str:
    return _template().render(
        kind=kind,
        sign=SIGNS[kind],
        colon="：" if language == "zh" else ": ",
        w={key: pair[language == "en"] for key, pair in WORDS.items()},
        language=language,
        check=check,
        name_check=name_check,
        typed=typed[:40],
        stylesheet=STYLESHEET_PATH,
        checked_at=checked_at and f"{checked_at.astimezone(CHINA):%Y-%m-%d %H:%M}",
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("api"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = _duration
    return environment.get_template("check.html")


def _duration(minutes: int, language: Language) -> str:
    """Hours and minutes as a reader says them."""
    whole, rest = divmod(minutes, 60)
    if language == "zh":
        return f"{whole:,} 小时" + (f" {rest} 分钟" if rest else "")
    return f"{whole:,} h" + (f" {rest} min" if rest else "")


# --- words -----------------------------------------------------------------------------------------------------------

SIGNS = {"valid": "✓", "corrected": "!", "superseded": "→", "revoked": "✗", "unknown": "?", "typo": "?"}

WORDS: dict[str, tuple[str, str]] = {
    "title": ("志愿服务记录证明查验", "Check a certificate of volunteer service"),
    "other_language": ("English", "中文"),
    "state": ("查验结果", "Result"),
    "valid": ("有效", "Valid"),
    "corrected": ("已更正", "Corrected since"),
    "superseded": ("已被替换", "Replaced"),
    "revoked": ("已撤销", "Revoked"),
    "unknown": ("查无此编号", "No such certificate"),
    "typo": ("编号有误", "Mistyped number"),
    "valid_why": (
        "本证明由下列单位出具，至今未更正、未撤销。",
        "Issued by the unit below; neither corrected nor revoked since.",
    ),
    "corrected_why": (
        "出具之后，所涉期间的服务记录有过更正，下列时长可能已不准确。请向持有人索取新的证明。",
        "Service in its period was corrected after it was issued, so the hours below may no longer be right. "
        "Ask the holder for a new certificate.",
    ),
    "superseded_why": (
        "本证明已由新的证明代替，请以新证明为准。",
        "A newer certificate takes its place. Rely on that one.",
    ),
    "revoked_why": ("本证明已被撤销，不再有效。", "This certificate was revoked and is not valid."),
    "unknown_why": (
        "编号写法正确，但本系统从未出具过这份证明。请核对编号；如纸面编号确实如此，该证明不是本系统出具的。",
        "The number is well-formed, but nothing was ever issued under it here. Compare it with the paper; "
        "if it reads the same, the paper was not issued here.",
    ),
    "typo_why": (
        "编号中有字符输错，无法查询。请对照证明逐字核对，形如 2026-7K3F9-QPD2M-X。",
        "A character of the number is wrong, so nothing was looked up. Compare it with the certificate; "
        "it looks like 2026-7K3F9-QPD2M-X.",
    ),
    "typed": ("您输入的是", "You entered"),
    "replaced_by": ("查看新证明", "See the new certificate"),
    "revoked_on": ("撤销日期", "Revoked on"),
    "number": ("证明编号", "Number"),
    "name": ("姓名", "Name"),
    "name_erased": ("〔已删除〕", "[erased]"),
    "hours": ("服务时长", "Time served"),
    "services": ("服务次数", "Services"),
    "period": ("服务期间", "Period"),
    "to": ("至", "to"),
    "issuer": ("出具单位", "Issued by"),
    "issued_on": ("出具日期", "Issued on"),
    "as_of": ("数据截至", "Based on"),
    "as_of_position": ("账本第 {} 条", "ledger position {}"),
    "checked_at": ("查验时间（北京时间）", "Checked at (Beijing time)"),
    "also_corrected": (
        "另：所涉期间的服务记录在出具后有过更正。",
        "Also: service in its period was corrected after it was issued.",
    ),
    "name_form": ("核对姓名", "Check the name"),
    "name_hint": (
        "为保护个人信息，本页不显示全名。请输入纸面上的姓名，核对是否一致。",
        "The full name is not shown here, to protect the holder. Enter the name on the paper to compare.",
    ),
    "name_button": ("核对", "Compare"),
    "matches": ("姓名与证明一致", "The name is that of the certificate"),
    "differs": ("姓名与证明不一致", "The name is not that of the certificate"),
    "number_form": ("查验证明", "Check a certificate"),
    "number_hint": ("请输入证明上的编号。", "Enter the number on the certificate."),
    "number_button": ("查验", "Check"),
    "technical": ("技术证明", "Technical proof"),
    "position": ("签发记录在账本中的位置", "Position of the fact in the ledger"),
    "commitment": ("持有人信息的承诺值", "Commitment to the holder"),
    "origin": ("账本", "Ledger"),
    "checkpoint": ("签名检查点", "Signed checkpoint"),
    "facts": ("条事实", "facts"),
    "root": ("树根", "Root"),
    "not_signed": ("尚未签入检查点", "not under a checkpoint yet"),
    "pdf": ("PDF 文件 SHA-256", "SHA-256 of the PDF"),
    "not_printed": ("尚未打印", "not printed yet"),
    "offline": (
        "不依赖本网站也能核对：用账本公开的公钥运行",
        "It can be checked without this site, with the ledger's public key:",
    ),
    "no_number": (
        "本页不含身份证件号码。如发现伪造或冒用证明，请告知出具单位。",
        "This page holds no identity number. If a certificate seems forged, tell the unit named as its issuer.",
    ),
}
"""Chinese and English, by what they say."""
