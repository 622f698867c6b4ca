"""Signed logs with their bundles, and somebody who takes a bundle apart and puts it together again as they like."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from ledger import bundle
from ledger.audit.bundled import verify_bundle
from ledger.audit.growth import earlier
from ledger.audit.report import Report
from ledger.bundling import export_bundle
from tests.signer.conftest import KEY, ORIGIN, Site, site, sqlite_site

__all__ = ["site", "sqlite_site"]

SIZES = (3, 20, 300, 560)
"""Of the checkpoints of a signed log."""


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two tiles, so that a log of a thousand facts has more than one."""
    monkeypatch.setattr(bundle, "CHUNK_FACTS", 512)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """560 signed facts under four checkpoints, and forty that are not signed yet. Not to be changed."""
    site = made(tmp_path_factory.mktemp("signed"), SIZES)
    site.grow(40)
    yield site
    site.log.close()


def made(folder: Path, sizes: tuple[int, ...]) -> Site:
    """A log in a file that was signed at these sizes."""
    site = Site(f"sqlite:///{folder / 'ledger.db'}", folder)
    for size in sizes:
        site.grow(size - site.count)
        site.sign()
    return site


def export(site: Site, file: Path) -> Path:
    export_bundle(site.log, file, [KEY.verifier_key], lambda _what, _done, _whole: None)
    return file


def check(file: Path, since: Path | None = None) -> Report:
    """What its receiver finds, who holds the key."""
    if since is None:
        return verify_bundle(file, [KEY.verifier_key], origin=ORIGIN)[0]
    with earlier(since) as kept:
        return verify_bundle(file, [KEY.verifier_key], origin=ORIGIN, since=kept)[0]


def found(report: Report) -> set[tuple[str, int | None]]:
    return {(defect.code, defect.position) for defect in report.defects}


def entries(file: Path) -> dict[str, bytes]:
    """The content of each entry, read by another zip library, in order."""
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(content: Mapping[str, bytes], file: Path) -> Path:
    """A bundle of these entries, with every length and CRC as it must be."""
    with file.open("wb") as out:
        writer = bundle.ZipWriter(out)
        for path, data in content.items():
            writer.add(path, [data])
        writer.finish()
    return file


Edit = Callable[[dict[str, bytes]], object]


def repacked(file: Path, edit: Edit, out: Path) -> Path:
    """The bundle after an edit of its entries."""
    content = entries(file)
    edit(content)
    return packed(content, out)
