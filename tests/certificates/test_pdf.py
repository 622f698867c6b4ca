"""The PDF: what it says, how it is read back, and that it is the same everywhere."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile
from zlib import compress

import pypdf
import pypdfium2
import pytest
import zxingcpp
from fontTools.ttLib import TTFont
from hypothesis import given, settings
from hypothesis import strategies as st

from api.certificate_pdf import CLASSES, KINDS, Sheet, attached_record, hours, render, require_glyphs
from ledger.certificates import Record, SignedClaim
from ledger.errors import CertificateWrongError, GlyphMissingError
from ledger.events import ActivityKind, SourceClass
from tests.certificates.paper import HOLDER, LOG_KEY, NUMBER, ORIGIN, Office, sheet

ROOT = Path(__file__).parent.parent.parent
FONTS = files("api").joinpath("fonts")
FACES = ("NotoSerifCJKsc-Regular.otf", "NotoSansCJKsc-Bold.otf")


def pages(pdf: bytes) -> list[str]:
    """The text of each page, without spaces and line ends."""
    with pypdfium2.PdfDocument(pdf) as document:
        return [re.sub(r"\s", "", page.get_textpage().get_text_bounded()) for page in document]


def text(of: Sheet) -> str:
    return "".join(pages(render(of)))


@pytest.fixture(scope="module")
def pdf() -> bytes:
    return _genuine()


# --- what it says ----------------------------------------------------------------------------------------------------


def test_it_says_everything_that_a_certificate_must(pdf: bytes) -> None:
    """L19: time, content and recording unit; who, by which document and number; certificate number, date, seal."""
    said = "".join(pages(pdf))
    for wanted in (
        "志愿服务记录证明",
        f"编号：{NUMBER}",
        "出具日期：2026年11月24日",
        "王玥喆",
        "居民身份证110105**********2X",
        "志愿者编号V-00472",
        "2026年1月1日至2026年11月20日",
        "6次",
        "记录单位为六峰镇新时代文明实践所",
        "记录和出具单位（盖章）",
        "负责人",
        "经办人",
        "联系方式",
        "不收取任何费用",
        "第1页，共1页",
        "数据截至账本第18,931条（2026-11-2318:00:00，北京时间）",
        "9f2c4e61" * 8,
        ORIGIN,
        f"https://wenming.example/verify/{NUMBER}",
    ):
        assert wanted in said, wanted


def test_the_lines_add_up_to_the_sum_and_classes_too() -> None:
    of = sheet(23)
    said = text(of)
    assert f"合计{hours(sum(line.minutes for line in of.lines))}" in said
    assert (
        "".join(CLASSES.values())
        + "合计"
        + "".join(map(hours, of.minutes_by_class.values()))
        + hours(of.minutes)
        in said
    )


def test_lines_left_out_have_a_sum_of_their_own() -> None:
    of = sheet(6, lines_left_out=12, minutes=sum(line.minutes for line in sheet(6).lines) + 1_000)
    assert f"以上6条小计{hours(of.minutes - 1_000)}其余12条（未列出）16:40合计{hours(of.minutes)}" in text(of)


@pytest.mark.parametrize("count", [0, 1, 13, 150])
def test_any_number_of_lines_breaks_into_numbered_pages(count: int) -> None:
    said = pages(render(sheet(count)))
    for number, page in enumerate(said, 1):
        assert f"第{number}页，共{len(said)}页" in page
        assert NUMBER in page
        assert number == 1 or "王玥喆·合计" in page
    assert ("本证明不列明细" in said[0]) == (count == 0)
    assert "（盖章）" in said[-1]
    assert sum(page.count("六峰镇新时代文明实践所") for page in said) == count - count // 2 + 2


def test_a_certificate_that_replaces_another_says_so() -> None:
    assert "替代" not in text(sheet())
    assert f"本证明替代此前出具的证明（编号{NUMBER}）" in text(sheet(replaces_number=NUMBER))


def test_without_an_identity_number_none_is_mentioned() -> None:
    assert "身份证" not in text(sheet(id_number_masked=None)).replace("不显示证件号码", "")


def test_long_names_and_addresses_stay_on_the_page() -> None:
    """Of everything that is printed, the right edge lies inside the margin."""
    long = "甘谷县" + "新时代文明实践" * 8
    address = f"https://{'volunteer-service-' * 4}gangu.example/verify/{NUMBER}#claim"
    pdf = render(sheet(3, issuer_name=long, county_name=long, holder_name="玥" * 50, check_url=address))
    with pypdfium2.PdfDocument(pdf) as document:
        for page in document:
            found = page.get_textpage()
            boxes = [found.get_charbox(at) for at in range(found.count_chars())]
            assert max(right for _, _, right, _ in boxes) < page.get_width() - 60
            assert min(left for left, _, _, _ in boxes if left) > 60


def test_what_stands_in_a_name_is_never_markup() -> None:
    said = text(sheet(county_name='#panic("x") *粗* $x$ `c` @a <b> \\'))
    assert '#panic("x")*粗*$x$`c`@a<b>\\' in said


@pytest.mark.parametrize(
    ("minutes", "said"),
    [(0, "0:00"), (59, "0:59"), (60, "1:00"), (36_750, "612:30"), (90_000, "1,500:00")],
)
def test_minutes_are_printed_as_hours_and_minutes(minutes: int, said: str) -> None:
    assert hours(minutes) == said


def test_every_kind_and_class_has_its_word() -> None:
    assert set(KINDS) == set(ActivityKind.__args__)
    assert set(CLASSES) == set(SourceClass.__args__)


# --- the file --------------------------------------------------------------------------------------------------------


def test_it_is_marked_as_archival_and_accessible(pdf: bytes) -> None:
    """PDF/A-3a and PDF/UA-1 by their markers: XMP, output intent, structure, language, title, embedded faces."""
    reader = pypdf.PdfReader(BytesIO(pdf))
    root = reader.trailer["/Root"]
    xmp = root["/Metadata"].get_data().decode()
    assert "<pdfaid:part>3</pdfaid:part>" in xmp
    assert "<pdfaid:conformance>A</pdfaid:conformance>" in xmp
    assert "<pdfuaid:part>1</pdfuaid:part>" in xmp
    assert root["/OutputIntents"][0]["/S"] == "/GTS_PDFA1"
    assert root["/MarkInfo"]["/Marked"]
    assert root["/StructTreeRoot"]
    assert root["/Lang"] == "zh-CN"
    assert root["/AF"][0].get_object()["/AFRelationship"] == "/Data"
    assert NUMBER in reader.metadata["/Title"]
    fonts = [font for page in reader.pages for font in page["/Resources"]["/Font"].values()]
    names = {font["/BaseFont"].partition("+")[2] for font in fonts}
    assert {name.split("-Identity")[0] for name in names} == {"NotoSerifCJKsc-Regular", "NotoSansCJKsc-Bold"}


def test_the_record_is_attached_and_still_holds(pdf: bytes) -> None:
    assert attached_record(pdf) == Office().record().to_bytes()
    with pypdfium2.PdfDocument(pdf) as document:
        assert [document.get_attachment(n).get_name() for n in range(document.count_attachments())] == [
            "record.json"
        ]
        assert Record.parse(bytes(document.get_attachment(0).get_data())).holder == HOLDER.shown()


def test_the_qr_code_is_read_from_a_coarse_raster(pdf: bytes) -> None:
    """Of a page of 110 dots an inch, less than any printer or telephone gives."""
    with pypdfium2.PdfDocument(pdf) as document:
        bitmap = document[0].render(scale=110 / 72, grayscale=True)
        shape = (bitmap.height, bitmap.stride)
        found = zxingcpp.read_barcodes(memoryview(bytes(bitmap.buffer)).cast("B", shape=shape))
    page, _, claim = found[0].text.partition("#")
    assert page == f"https://wenming.example/verify/{NUMBER}"
    assert SignedClaim.parse(claim).claim.number == NUMBER


def test_the_same_sheet_gives_the_same_bytes_in_another_process_with_other_fonts_and_time(
    pdf: bytes, tmp_path: Path
) -> None:
    """Byte for byte: whatever the machine's fonts, zone, language, home and hash seed are."""
    code = (
        "import sys; from hashlib import sha256; from api.certificate_pdf import render;"
        "from tests.certificates.paper import sheet; sys.stdout.write(sha256(render(sheet())).hexdigest())"
    )
    surroundings = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
        "FONTCONFIG_FILE": "/dev/null",
        "TZ": "America/New_York",
        "LANG": "tr_TR.UTF-8",
        "SOURCE_DATE_EPOCH": "86400",
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": str(ROOT),
    }
    there = subprocess.run(
        [sys.executable, "-c", code],
        env=surroundings,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert there.stdout == sha256(pdf).hexdigest() == sha256(render(sheet())).hexdigest()


def test_many_at_once_give_the_same_bytes(pdf: bytes) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: render(sheet()), range(16))) == {pdf}


def test_another_sheet_gives_another_file(pdf: bytes) -> None:
    assert render(replace(sheet(), services=7)) != pdf


# --- reading one from anywhere ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"%PDF-1.7\n", b"%PDF-1.7\n" + b"\x00" * 5_000, b"%PDF-1.7\ntrailer<</Root 1 0 R>>"]
)
def test_what_is_no_pdf_is_refused(data: bytes) -> None:
    with pytest.raises(CertificateWrongError, match="PDF"):
        attached_record(data)


def _with_attachments(*attached: tuple[str, bytes]) -> bytes:
    writer, out = pypdf.PdfWriter(), BytesIO()
    writer.add_blank_page(100, 100)
    for name, content in attached:
        writer.add_attachment(name, content)
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize(
    "attached", [(), (("other.json", b"{}"),), (("record.json", b"{}"), ("record.json", b"{}"))]
)
def test_a_pdf_has_exactly_one_record(attached: tuple[tuple[str, bytes], ...]) -> None:
    with pytest.raises(CertificateWrongError, match="exactly one"):
        attached_record(_with_attachments(*attached))


def test_a_record_that_would_unpack_without_end_is_refused() -> None:
    """Less than 100 kB, which unpack to 80 MB."""
    writer, out = pypdf.PdfWriter(), BytesIO()
    writer.add_blank_page(100, 100)
    stream = writer.add_attachment("record.json", b"")._embedded_file
    stream._data = compress(bytes(80_000_000), 9)
    stream[pypdf.generic.NameObject("/Filter")] = pypdf.generic.NameObject("/FlateDecode")
    writer.write(out)
    assert len(out.getvalue()) < 100_000
    with pytest.raises(CertificateWrongError, match="cannot be read"):
        attached_record(out.getvalue())


@settings(max_examples=25, deadline=None)
@given(at=st.integers(0), other=st.binary(min_size=1, max_size=40))
def test_a_damaged_pdf_is_refused_or_holds_what_it_held(at: int, other: bytes) -> None:
    """Damage elsewhere in the file is not the record's; damage to the record is noticed."""
    genuine = Office().record()
    at %= len(_genuine())
    try:
        found = attached_record(_genuine()[:at] + other + _genuine()[at + len(other) :])
        checked = Record.parse(found).check([LOG_KEY.verifier_key], ORIGIN)
    except CertificateWrongError:
        return
    assert checked == genuine.check([LOG_KEY.verifier_key], ORIGIN)


@cache
def _genuine() -> bytes:
    return render(sheet())


# --- typefaces -------------------------------------------------------------------------------------------------------


def test_every_face_has_every_character_of_the_general_standard_table() -> None:
    """通用规范汉字表: 8,105 characters, those of names such as 珺 玥 喆 among them, some beyond the basic plane."""
    table = FONTS.joinpath("tonggui-8105.txt").read_text("utf-8").replace("\n", "")
    assert len(table) == len(set(table)) == 8_105
    assert set("珺玥喆堃祎昉翀旻赟㛃䶮𬱖𫖯") <= set(table)
    covered = FONTS.joinpath("covered.txt").read_text("utf-8").replace("\n", "")
    coverages = [
        set(map(chr, TTFont(BytesIO(FONTS.joinpath(face).read_bytes())).getBestCmap())) for face in FACES
    ]
    assert set(table) <= set(covered) <= coverages[0] & coverages[1]


def test_the_faces_are_those_that_were_made_and_stay_small() -> None:
    sources = FONTS.joinpath("SOURCES.txt").read_text("utf-8")
    for face in FACES:
        assert f"{sha256(FONTS.joinpath(face).read_bytes()).hexdigest()}  {face}" in sources
    assert sum(len(FONTS.joinpath(face).read_bytes()) for face in FACES) < 10_000_000
    assert "SIL OPEN FONT LICENSE" in FONTS.joinpath("OFL.txt").read_text("utf-8")


def test_names_of_every_kind_are_set() -> None:
    for name in ("王玥喆", "阿卜杜拉·买买提", "欧阳𬱖", "龚䶮", "Anna-Maria"):
        assert name in text(sheet(1, holder_name=name))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("王𰻞", "𰻞（U+30EDE）"),
        ("王😀", "😀（U+1F600）"),
        ("王\n玥", "（U+000A）"),
        ("王\u200b玥", "（U+200B）"),
    ],
)
def test_a_character_that_the_faces_lack_is_named_and_nothing_is_printed(name: str, said: str) -> None:
    with pytest.raises(GlyphMissingError) as refused:
        render(sheet(1, holder_name=name))
    assert refused.value.details["characters"] == [said]
    assert said in refused.value.sentence_zh


def test_all_missing_characters_are_named_once_wherever_they_stand() -> None:
    with pytest.raises(GlyphMissingError) as refused:
        require_glyphs({"a": ["𰻞", {"b": ("😀𰻞", 1)}]})
    assert refused.value.details["characters"] == ["𰻞（U+30EDE）", "😀（U+1F600）"]


@settings(max_examples=8, deadline=None)
@given(
    name=st.text(
        st.sampled_from(FONTS.joinpath("covered.txt").read_text("utf-8").replace("\n", "")),
        min_size=1,
        max_size=30,
    )
)
def test_whatever_is_said_to_be_covered_is_set(name: str) -> None:
    render(sheet(0, holder_name=name, issuer_name=name))


@pytest.mark.slow
def test_an_installed_package_brings_faces_templates_and_styles(tmp_path: Path) -> None:
    """About 10 s: the wheel is built."""
    subprocess.run(["uv", "build", "--wheel", "-o", str(tmp_path), "-q", str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    data = ("covered.txt", "tonggui-8105.txt", "OFL.txt", "UNICODE.txt", "SOURCES.txt", *FACES)
    assert {f"api/fonts/{name}" for name in data} <= names
    assert {"api/templates/certificate.typ", "api/templates/check.html", "api/static/check.css"} <= names
