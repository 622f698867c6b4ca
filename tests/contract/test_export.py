"""`wenming export contract`: the files for those who read the topic, and a promise that is not broken by the way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger.asyncapi import contract_files
from tests.cli import wenming


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    schema = json.loads(file.read_text("utf-8"))
    change(schema)
    file.write_text(json.dumps(schema), "utf-8")


def test_it_writes_every_file_and_does_so_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "contract"
    for _ in range(2):
        done = wenming("export", "contract", folder)
        assert (done.code, done.out.strip()) == (0, f"{len(contract_files())} files in {folder}")
        assert contents(folder) == contract_files()


def test_an_earlier_contract_is_brought_up_to_date(tmp_path: Path) -> None:
    wenming("export", "contract", tmp_path)
    edit(tmp_path / "schemas/entry.posted.v1.json", lambda schema: schema.update(description="as it was"))
    (tmp_path / "schemas/unit.moved.v1.json").unlink()
    (tmp_path / "README.md").write_text("ours")
    assert wenming("export", "contract", tmp_path).code == 0
    assert contents(tmp_path) == {**contract_files(), "README.md": b"ours"}


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (
            "entry.posted.v1",
            lambda schema: schema["properties"]["source_class"]["enum"].remove("imported"),
            'The field source_class has values that no reader knows yet: "imported".',
        ),
        (
            "envelope.v1",
            lambda schema: schema["properties"].update(region={"type": "string"}),
            "The field region is gone; a field is never removed or renamed.",
        ),
    ],
)
def test_what_would_break_an_earlier_promise_is_refused_and_nothing_written(
    tmp_path: Path, name: str, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    wenming("export", "contract", tmp_path)
    edit(tmp_path / f"schemas/{name}.json", change)
    (tmp_path / "asyncapi.json").unlink()
    before = contents(tmp_path)
    done = wenming("export", "contract", tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("CONTRACT_BROKEN  ")
    assert told in " ".join(done.err.split())
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", [b"not JSON", b"\xff", b"[]"])
def test_a_file_in_the_way_that_is_no_schema_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/unit.moved.v1.json").write_bytes(content)
    assert wenming("export", "contract", tmp_path).err.startswith("CONTRACT_BROKEN  ")
    assert contents(tmp_path) == {"schemas/unit.moved.v1.json": content}


def test_a_place_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("as it was")
    for folder in (tmp_path / "file", tmp_path / "file" / "within"):
        done = wenming("export", "contract", folder)
        assert (done.code, done.out) == (1, "")
        assert "Error: " in done.err
        assert "Traceback" not in done.err
    assert contents(tmp_path) == {"file": b"as it was"}
