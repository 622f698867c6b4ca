"""Make the two typefaces of certificates from Debian's, the list that they must hold, and all that both do hold.

Run with ``python -m api.fonts.make`` (dependency group ci) on Debian 12, after
``apt-get install fonts-noto-cjk unicode-data``. The product never runs this; what it wrote is shipped.
"""

import bz2
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

HERE = Path(__file__).parent
CHARACTERS = HERE / "tonggui-8105.txt"
COVERED = HERE / "covered.txt"
UNIHAN = Path("/usr/share/unicode/Unihan_OtherMappings.txt.bz2")
DEBIAN = Path("/usr/share/fonts/opentype/noto")
FACES = {
    "NotoSerifCJKsc-Regular.otf": ("NotoSerifCJK-Regular.ttc", "Noto Serif CJK SC"),
    "NotoSansCJKsc-Bold.otf": ("NotoSansCJK-Bold.ttc", "Noto Sans CJK SC"),
}
"""Ours: the collection of Debian's, and the family in it. Text is set in the first, what stands out in the second."""
BESIDE_HAN = (
    (0x20, 0x7E),
    (0xA0, 0xFF),
    (0x2010, 0x2027),
    (0x2030, 0x203B),
    (0x2212, 0x2212),
    (0x3000, 0x303F),
    (0xFF01, 0xFFE5),
)
FEATURES = ["ccmp", "kern", "mark"]


def main() -> None:
    """Write the list, both faces, and SOURCES.txt with what they were made from."""
    han = table_of_8105()
    CHARACTERS.write_text(in_lines(han), "utf-8")
    wanted = {ord(one) for one in han} | set(gb2312()) | {n for a, b in BESIDE_HAN for n in range(a, b + 1)}
    covered = set(wanted)
    for name, (collection, family) in FACES.items():
        covered &= subset(DEBIAN / collection, family, wanted, HERE / name)
    COVERED.write_text(in_lines("".join(map(chr, sorted(covered)))), "utf-8")
    (HERE / "SOURCES.txt").write_text("".join(f"{line}\n" for line in sources()), "utf-8")


def table_of_8105() -> str:
    """The characters of 通用规范汉字表 (2013) in its own order (Unihan kTGH)."""
    with bz2.open(UNIHAN, "rt", encoding="utf-8") as lines:
        fields = [line.rstrip("\n").split("\t") for line in lines if "\tkTGH\t" in line]
    by_number = {int(value.removeprefix("2013:")): chr(int(code[2:], 16)) for code, _, value in fields}
    if sorted(by_number) != list(range(1, 8106)):
        raise SystemExit("Unihan does not number 1 to 8105")
    return "".join(by_number[number] for number in sorted(by_number))


def gb2312() -> Iterator[int]:
    """The code points of GB 2312-80."""
    for row in range(0xA1, 0xF8):
        for cell in range(0xA1, 0xFF):
            yield from map(ord, bytes((row, cell)).decode("gb2312", errors="ignore"))


def subset(collection: Path, family: str, wanted: set[int], target: Path) -> set[int]:
    """Write the face of that family, with the wanted characters only, and say which of them it has."""
    options = Options(layout_features=FEATURES, hinting=False, recalc_timestamp=False, notdef_outline=True)
    options.name_IDs = ["*"]
    font = next(face for face in faces(collection) if face["name"].getDebugName(1) == family)
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=wanted)
    subsetter.subset(font)
    font.save(target)
    return set(font.getBestCmap())


def in_lines(text: str) -> str:
    """Sixty characters a line."""
    return "".join(f"{text[i : i + 60]}\n" for i in range(0, len(text), 60))


def faces(collection: Path) -> Iterator[TTFont]:
    """The faces of a collection, one by one."""
    for number in range(10):
        yield TTFont(collection, fontNumber=number, recalcTimestamp=False)


def sources() -> Iterator[str]:
    """What was taken from where, under which licence, and what it became."""
    yield "Made by api/fonts/make.py from these Debian packages:"
    for package in ("fonts-noto-cjk", "unicode-data"):
        version = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package], check=True, capture_output=True, text=True
        )
        yield f"  {package} {version.stdout}"
    yield ""
    yield "Noto CJK: SIL Open Font License 1.1 (OFL.txt). Characters: Unihan kTGH, Unicode licence (UNICODE.txt)."
    for name, (collection, family) in FACES.items():
        yield ""
        yield f"{digest(DEBIAN / collection)}  {collection} ({family})"
        yield f"{digest(HERE / name)}  {name}"
    yield ""
    yield f"{digest(UNIHAN)}  {UNIHAN.name}"
    yield f"{digest(CHARACTERS)}  {CHARACTERS.name}"


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
