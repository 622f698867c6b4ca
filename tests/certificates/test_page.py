"""The public page: what it says, what it never says, and that it needs no script and nothing from elsewhere."""

import re
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from importlib.resources import files
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.public_check import (
    HEADERS,
    SIGNS,
    STYLESHEET_PATH,
    WORDS,
    Language,
    PublicCheck,
    Status,
    masked,
    page,
    stylesheet,
    typo_page,
)
from tests.certificates.paper import HOLDER, NUMBER, ORIGIN

LANGUAGES: tuple[Language, ...] = get_args(Language)
OTHER_NUMBER = "2026-ABCDE-FGHJK-M"


def check(**other: object) -> PublicCheck:
    """A certificate that is valid, or as ``other`` says."""
    said: dict[str, object] = {
        "number": NUMBER,
        "status": "valid",
        "masked_name": masked(HOLDER.name),
        "minutes": 36_750,
        "services": 1_146,
        "first_on": date(2020, 3, 9),
        "last_on": date(2026, 11, 20),
        "issued_on": date(2026, 11, 23),
        "issuer_name": "六峰镇新时代文明实践所",
        "county_name": "甘谷县新时代文明实践中心",
        "as_of_position": 18_931,
        "touched": False,
        "replaced_by_number": None,
        "revoked_on": None,
        "position": 18_932,
        "commitment": "ab" * 32,
        "pdf_sha256": ("9f" * 32, "77" * 32),
        "origin": ORIGIN,
        "tree_size": 18_944,
        "root_hex": "3d" * 32,
    }
    return PublicCheck(**(said | other))  # type: ignore[arg-type]


def every_page(language: Language) -> dict[str, str]:
    """One page of each kind."""
    return {
        "valid": page(check(), "matches", language, checked_at=datetime(2026, 11, 27, 9, 30, tzinfo=UTC)),
        "corrected": page(check(status="corrected", touched=True), "differs", language),
        "superseded": page(check(status="superseded", replaced_by_number=OTHER_NUMBER), None, language),
        "revoked": page(check(status="revoked", revoked_on=date(2026, 11, 25), touched=True), None, language),
        "erased": page(check(masked_name=None), None, language),
        "fresh": page(check(pdf_sha256=(), tree_size=None, root_hex=None, origin=None), None, language),
        "unknown": page(None, None, language, typed=NUMBER),
        "typo": typo_page("2026-7K3F9", language),
    }


ALL = {(language, kind): html for language in LANGUAGES for kind, html in every_page(language).items()}


class Tags(HTMLParser):
    """Every element and attribute of a page, and whether its elements are closed in their order."""

    VOID = frozenset({"meta", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("王玥喆", "王*喆"),
        ("王喆", "王*"),
        ("王", "王*"),
        ("欧阳修远", "欧**远"),
        ("阿卜杜拉·买买提", "阿***·买**"),
        ("古丽‧巴哈尔", "古*‧巴**"),
        ("卓玛•次仁•央金", "卓*•次*•央*"),
        ("Mary-Ann Lee", "M***-A** L**"),
        (" 王玥喆 ", "王*喆"),
        ("", "*"),
    ],
)
def test_a_name_is_masked_by_its_shape(name: str, shown: str) -> None:
    """L20: strangers see enough to compare, and not the name."""
    assert masked(name) == shown


@given(name=st.text(min_size=1, max_size=30))
def test_a_mask_always_hides_something(name: str) -> None:
    parts = [part for part in re.split(r"[\s·•‧・．.\-]+", name) if part]
    assert masked(name).count("*") >= sum(len(part) - 1 for part in parts) - 1
    assert masked(name) != name or "*" in name or max(map(len, parts), default=0) < 2


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("status", get_args(Status))
def test_every_state_is_said_by_sign_and_word(status: Status, language: Language) -> None:
    """T37, F26; never by colour alone."""
    html = page(check(status=status), None, language)
    assert (
        f'<span class="sign" aria-hidden="true">{SIGNS[status]}</span> {WORDS[status][language == "en"]}</p>'
        in html
    )
    assert f"<title>{WORDS[status][language == 'en']} · " in html
    assert html.count('class="verdict"') == 1


def test_states_have_signs_of_their_own() -> None:
    assert len({SIGNS[status] for status in get_args(Status)}) == len(get_args(Status))


def test_it_shows_what_is_to_be_compared_with_the_paper() -> None:
    zh, en = ALL["zh", "valid"], ALL["en", "valid"]
    for wanted in (
        NUMBER,
        "王*喆",
        "612 小时 30 分钟",
        "1,146",
        "2020-03-09 至 2026-11-20",
        "账本第 18,931 条",
    ):
        assert wanted in zh
    for wanted in (NUMBER, "王*喆", "612 h 30 min", "2020-03-09 to 2026-11-20", "ledger position 18,931"):
        assert wanted in en
    assert "2026-11-27 17:30" in zh
    assert "6 h</strong>" in page(check(minutes=360), None, "en")
    assert "6 小时</strong>" in page(check(minutes=360), None, "zh")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_replaced_certificate_leads_to_the_one_that_replaces_it(language: Language) -> None:
    links = [one["href"] for tag, one in Tags(ALL[language, "superseded"]).seen if tag == "a"]
    assert f"/verify/{OTHER_NUMBER}?lang={language}" in links


def test_a_revoked_certificate_says_when_and_that_it_was_corrected_too() -> None:
    assert "撤销日期：2026-11-25" in ALL["zh", "revoked"]
    assert "出具后有过更正" in ALL["zh", "revoked"]
    assert "Revoked on: 2026-11-25" in ALL["en", "revoked"]


def test_the_answer_to_a_name_is_said_and_the_name_is_not_repeated() -> None:
    assert "✓</span> 姓名与证明一致" in ALL["zh", "valid"]
    assert "✗</span> 姓名与证明不一致" in ALL["zh", "corrected"]
    assert "姓名与证明" not in ALL["zh", "superseded"]


def test_after_erasure_there_is_no_name_and_nothing_to_compare() -> None:
    assert "〔已删除〕" in ALL["zh", "erased"]
    assert 'name="name"' not in ALL["zh", "erased"]


def test_an_unknown_number_is_told_from_a_typo() -> None:
    assert "查无此编号" in ALL["zh", "unknown"]
    assert "编号有误" in ALL["zh", "typo"]
    assert "2026-7K3F9-QPD2M-X" in ALL["zh", "typo"]
    assert ALL["zh", "unknown"].count("甘谷") == 0


@pytest.mark.parametrize("kind", ["unknown", "typo"])
def test_what_was_typed_is_shown_as_text_and_cut(kind: str) -> None:
    typed = "<script>alert(1)</script>" + "x" * 500
    html = page(None, None, "zh", typed=typed) if kind == "unknown" else typo_page(typed, "en")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "x" * 50 not in html


def test_nothing_that_a_ledger_holds_becomes_markup() -> None:
    html = page(check(issuer_name='<b onclick="x">', county_name="<i>", masked_name="<*"), None, "zh")
    assert "<b " not in html
    assert "<i>" not in html


# --- how it is made --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("language", "kind"), ALL)
def test_a_page_is_small_whole_and_needs_nothing_from_elsewhere(language: Language, kind: str) -> None:
    html = ALL[language, kind]
    seen = Tags(html).seen
    assert html.startswith("<!doctype html>")
    assert len(html.encode()) + len(stylesheet().body) < 60_000
    assert not {tag for tag, _ in seen} & {"script", "style", "img", "iframe", "object", "svg"}
    for _, attributes in seen:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("href", "src", "action"):
            target = attributes.get(name) or "?"
            assert target.startswith(("?", "/")), target
            assert not target.startswith("//")
    assert [one["href"] for tag, one in seen if tag == "link"] == [STYLESHEET_PATH]


@pytest.mark.parametrize(("language", "kind"), ALL)
def test_a_page_can_be_used_without_seeing_it(language: Language, kind: str) -> None:
    seen = Tags(ALL[language, kind]).seen
    assert seen[0] == ("html", {"lang": {"zh": "zh-CN", "en": "en"}[language]})
    tags = [tag for tag, _ in seen]
    assert (tags.count("h1"), tags.count("main"), tags.count("title")) == (1, 1, 1)
    labelled = {one["for"] for tag, one in seen if tag == "label"}
    asked = {one["id"] for tag, one in seen if tag == "input" and one.get("type") != "hidden"}
    assert labelled == asked
    ids = [one["id"] for _, one in seen if "id" in one]
    assert len(ids) == len(set(ids))
    assert ("robots", "noindex, nofollow") in [(one.get("name"), one.get("content")) for _, one in seen]


@pytest.mark.parametrize("kind", every_page("zh"))
def test_both_languages_have_the_same_shape(kind: str) -> None:
    zh, en = ([tag for tag, _ in Tags(ALL[language, kind]).seen] for language in ("zh", "en"))
    assert zh == en


def test_every_word_is_in_both_languages_and_used() -> None:
    template = files("api").joinpath("templates/check.html").read_text("utf-8")
    for key, (zh, en) in WORDS.items():
        assert re.search("[\u4e00-\u9fff]", zh + en), key
        assert en.isascii() or key == "other_language", key
        assert f"w.{key}" in template or key.removesuffix("_why") in (*SIGNS, "matches", "differs"), key


def test_nothing_is_allowed_that_the_page_does_not_need() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; form-action 'self'")
    assert "unsafe" not in policy
    assert HEADERS["Cache-Control"] == "no-store"


def test_the_name_is_posted_and_never_part_of_an_address() -> None:
    forms = [one for tag, one in Tags(ALL["zh", "valid"]).seen if tag == "form"]
    assert [one["method"] for one in forms] == ["post"]


# --- contrast --------------------------------------------------------------------------------------------------------


def _luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", ["ink", "quiet", "brand", "good", "warn", "bad"])
def test_every_colour_is_read_on_white(name: str) -> None:
    """WCAG AA: 4.5 to 1; white on the brand's colour is the same pair."""
    css = bytes(stylesheet().body).decode()
    found = re.search(rf"--{name}: (#[0-9a-f]{{6}});", css)
    assert found is not None
    assert 1.05 / (_luminance(found[1]) + 0.05) >= 4.5
