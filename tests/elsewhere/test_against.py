"""`wenming verify --against`: equal figures are quiet, and whatever differs is named."""

import io
import json
import re
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import create_engine, text

from api.against import ClickHouse, compare, printed_totals
from ledger.codec import canonical_json
from ledger.log import LedgerLog
from projections.elsewhere import totals_script
from projections.elsewhere.parts import totals_of_figure
from projections.figures import all_figures
from projections.follower import catch_up
from projections.hours import unit_months, volunteer_days, volunteer_hours
from projections.totals import differences, ledger_totals, names_of, numbers
from tests.cli import Done, wenming
from tests.county import LEDGER_ID, County
from tests.elsewhere.conftest import messages
from tests.elsewhere.house import PASSWORD, House
from tests.projections.test_projections import copied


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WENMING_CLICKHOUSE_PASSWORD_FILE", raising=False)
    monkeypatch.chdir(tmp_path)


def against(county: County, place: object, *options: object) -> Done:
    return wenming("verify", "--database", county.url, "--against", place, *options)


def found(county: County, place: object, *options: object) -> Any:
    return json.loads(against(county, place, "--json", *options).out)


def refused(done: Done, code: str) -> str:
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"{code}  ")
    assert len(done.err.strip().splitlines()) == 2
    return done.err


def changed(message: bytes, **fields: Any) -> bytes:
    """Another fact under the same id, and no longer the one that was hashed."""
    envelope = orjson.loads(message)
    envelope["data"] |= fields
    return canonical_json(envelope)


# --- totals that an engine printed -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def printed(full_house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ClickHouse prints of the whole county."""
    file = tmp_path_factory.mktemp("printed") / "totals.jsonl"
    file.write_text("".join(full_house.query(query) for query in totals_script("clickhouse")), "utf-8")
    return file


def test_equal_totals_are_quiet(county: County, printed: Path) -> None:
    size = county.log.head().size
    said = found(county, printed, "--position", size)
    assert (said["ok"], said["position"], said["findings"], said["differences"]) == (True, size, [], [])
    assert said["compared"] == sum(len(names_of(figure)) for figure in all_figures())
    assert said["engine"] == {"facts": size, "last_position": size, "first_missing": None}


def test_they_are_read_from_stdin_and_out_of_what_a_terminal_draws(
    county: County, printed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [f"| +I | {line} |" for line in printed.read_text("utf-8").splitlines()]
    earlier = [line.replace('"checksum":', '"checksum":9') for line in drawn]  # a stream corrects itself
    data = "\n".join(["+----+", "| op | total |", *earlier, *drawn, "Received 19 rows"]).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    done = against(county, "-")
    assert (done.code, done.err) == (0, "")
    assert f"-, compared with the ledger at position {county.log.head().size:,}" in done.out
    assert "totals equal the ledger's" in done.out


def test_each_total_that_differs_is_named_with_both_numbers(
    county: County, printed: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in printed.read_text("utf-8").splitlines()]
    hours = next(line for line in lines if line["figure"] == "volunteer_hours")
    was = int(hours["minutes"])
    hours["minutes"] = was + 60
    file = tmp_path / "totals.jsonl"
    file.write_text(
        "\n".join(json.dumps(line) for line in lines if line["figure"] != "team_sponsors"), "utf-8"
    )
    done = against(county, file)
    assert done.code == 1
    assert f"TOTAL_DIFFERS  volunteer_hours.minutes: the ledger {was:,}, the engine {was + 60:,}" in done.out
    named = re.findall(r"TOTAL_DIFFERS  (\S+):", done.out)
    assert named == [
        "team_sponsors.rows",
        "team_sponsors.assigned",
        "team_sponsors.checksum",
        "volunteer_hours.minutes",
    ]


def test_totals_of_another_position_are_not_compared(county: County, printed: Path) -> None:
    said = found(county, printed, "--position", 7)
    assert [one["code"] for one in said["findings"]] == ["ENGINE_ELSEWHERE"]
    assert (said["ok"], said["compared"]) == (False, 0)


def test_an_engine_that_is_ahead_of_the_ledger_is_news(county: County, printed: Path, tmp_path: Path) -> None:
    with closing(copied(county.log, f"sqlite:///{tmp_path / 'restored.db'}", 50)) as restored:
        engine = printed_totals("file", printed.read_bytes(), LEDGER_ID)
        assert [one.code for one in compare(restored, engine).findings] == ["ENGINE_AHEAD"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no totals"),
        (b"nothing here", "no totals"),
        (b'{"ledger_id": ', "line 1"),
        (b'{"ledger_id": }', "line 1"),
        (b"\n{}", "line 2"),
        (b'{"ledger_id": 7, "figure": "facts"}', "of 7 only"),
        (b'{"ledger_id": "%b", "figure": "facts", "rows": "x"}' % str(LEDGER_ID).encode(), "line 1"),
        (b'{"ledger_id": "%b", "figure": "volunteers", "rows": 1}' % str(LEDGER_ID).encode(), "line 1"),
        (b"{\xff\xfe}", "line 1"),
        (b"{" * 100_000 + b"}" * 100_000, "line 1"),
    ],
)
def test_what_are_no_totals_is_refused_with_the_line(
    county: County, tmp_path: Path, content: bytes, told: str
) -> None:
    file = tmp_path / "totals.jsonl"
    file.write_bytes(content)
    assert told in refused(against(county, file), "TOTALS_MALFORMED")


def test_what_makes_no_sense_together_is_refused(county: County, printed: Path, tmp_path: Path) -> None:
    refused(against(county, tmp_path / "missing"), "ENGINE_UNAVAILABLE")
    refused(against(county, printed, "--position", 10**9), "AS_OF_BEYOND_HEAD")
    refused(against(county, printed, "--position", "soon"), "INVALID_REQUEST")
    refused(against(county, printed, "--since", printed), "INVALID_REQUEST")
    refused(against(county, "mysql://there/db"), "INVALID_REQUEST")
    refused(against(county, "http://u:geheim@127.0.0.1/x"), "INVALID_REQUEST")
    refused(against(county, "http:///x"), "INVALID_REQUEST")
    refused(against(county, "http://127.0.0.1:x/y"), "INVALID_REQUEST")
    refused(against(county, "http://127.0.0.1/y", "--password-file", tmp_path / "no"), "INVALID_REQUEST")
    refused(wenming("verify", "--database", county.url, "--position", "3"), "INVALID_REQUEST")


# --- ClickHouse over HTTP --------------------------------------------------------------------------------------------


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n", "utf-8")
    return file


@pytest.mark.slow
def test_clickhouse_is_asked_over_http_at_any_position(
    county: County, full_house: House, password_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = county.log.head().size
    with full_house.serving() as address:
        done = against(county, address, "--password-file", password_file)
        assert (done.code, done.err) == (0, "")
        monkeypatch.setenv("WENMING_CLICKHOUSE_PASSWORD_FILE", str(password_file))
        said = found(county, address, "--position", size // 3)
    assert (said["ok"], said["position"], said["engine"]["facts"]) == (True, size // 3, size // 3)


def test_nobody_gets_in_without_the_password_and_it_is_never_shown(
    county: County, full_house: House, password_file: Path
) -> None:
    password_file.write_text("falsch-und-geheim", "utf-8")
    with full_house.serving() as address:
        said = refused(against(county, address, "--password-file", password_file), "ENGINE_UNAVAILABLE")
        assert "403 Code: 516" in said
        assert "geheim" not in said
        assert refused(against(county, address), "ENGINE_UNAVAILABLE")
    gone = refused(against(county, address), "ENGINE_UNAVAILABLE")
    assert "ConnectionRefusedError" in gone


def test_a_database_without_our_views_is_said_to_be_one(
    county: County, house: House, password_file: Path
) -> None:
    with house.serving() as address:
        said = refused(against(county, address, "--password-file", password_file), "ENGINE_UNAVAILABLE")
    assert "UNKNOWN_TABLE" in said


def test_what_goes_wrong_after_it_began_to_answer_is_no_answer(
    county: County, house: House, password_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "answer", lambda *_: (200, "Code: 241. DB::Exception: Memory limit exceeded"))
    with house.serving() as address:
        said = refused(against(county, address, "--password-file", password_file), "ENGINE_UNAVAILABLE")
    assert "Code: 241" in said


def test_an_engine_that_holds_nothing_is_not_taken_for_equal(county: County, house: House) -> None:
    house.follow_topic()
    comparison = asked(house, county.log)
    assert [finding.code for finding in comparison.findings] == ["ENGINE_EMPTY"]
    assert not comparison.ok


def asked(house: House, log: LedgerLog, position: int | None = None) -> Any:
    with house.serving() as address:
        engine = ClickHouse(address, lambda: PASSWORD).totals(LEDGER_ID, position)
    return compare(log, engine, position)


@pytest.mark.slow
def test_a_fact_that_never_arrived_is_named(county: County, house: House) -> None:
    house.follow_topic()
    sent = messages(county.log)
    gone = next(n for n, message in enumerate(sent) if b'"entry.posted.v1"' in message)
    house.receive(sent[:gone] + sent[gone + 1 :])
    comparison = asked(house, county.log)
    (finding,) = comparison.findings
    assert (finding.code, comparison.engine.first_missing) == ("FACTS_MISSING", gone + 1)
    assert f"it lacks 1, the first at position {gone + 1}" in finding.en
    assert {("volunteer_hours", "minutes"), ("volunteer_days", "checksum")} <= {
        (one.figure, one.total) for one in comparison.differences
    }


@pytest.mark.slow
def test_a_fact_that_was_changed_on_the_way_is_noticed(county: County, house: House) -> None:
    """One entry is a minute longer, another as long as before but served elsewhere: only a checksum notices that."""
    house.follow_topic()
    sent = messages(county.log)
    one, other, *_ = (n for n, message in enumerate(sent) if b'"entry.posted.v1"' in message)
    sent[one] = changed(sent[one], minutes=orjson.loads(sent[one])["data"]["minutes"] + 1)
    house.receive(sent)
    sums = {("volunteer_hours", "minutes"), ("unit_months", "minutes"), ("volunteer_days", "minutes")}
    assert sums <= differing(house, county.log)
    house.query("TRUNCATE TABLE facts")
    sent = messages(county.log)
    sent[other] = changed(sent[other], unit_id="00000000-0000-4000-8000-000000000000")
    house.receive(sent)
    named = differing(house, county.log)
    assert {("unit_months", "checksum"), ("volunteer_days", "checksum")} <= named
    assert not named & {*sums, ("volunteer_hours", "checksum")}


def differing(house: House, log: LedgerLog) -> set[tuple[str, str]]:
    """Which totals of three figures are not the ledger's."""
    position = log.head().size
    engine = {
        one.name: numbers(one, house.rows(totals_of_figure(one, "clickhouse", position))[0])
        for one in (volunteer_hours, volunteer_days, unit_months)
    }
    ledger = ledger_totals(log, position).figures
    return {(d.figure, d.total) for d in differences({name: ledger[name] for name in engine}, engine)}


# --- databases with the figures' tables ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_tables_that_a_follower_made_elsewhere_are_compared(
    county: County, kind: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue("sqlite_url" if kind == "sqlite" else "postgres_url")
    with closing(copied(county.log, url)) as other:
        catch_up(other)
    said = found(county, url)
    assert said["ok"], said
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE figure_volunteers_v1 SET home_unit_id = 'somewhere else'"))
    engine.dispose()
    differing = [(one["figure"], one["total"]) for one in found(county, url)["differences"]]
    assert differing == [("volunteers", "checksum")]


def test_a_database_that_cannot_be_compared_is_refused(county: County, tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    refused(against(county, f"sqlite:///{missing}"), "ENGINE_UNAVAILABLE")
    assert not missing.exists()
    with closing(sqlite3.connect(tmp_path / "strange.db")) as strange:
        strange.execute("CREATE TABLE notes (text)")
    refused(against(county, f"sqlite:///{tmp_path / 'strange.db'}"), "ENGINE_UNAVAILABLE")
    shutil.copy(tmp_path / "strange.db", tmp_path / "text.db")
    (tmp_path / "text.db").write_text("no database at all", "utf-8")
    refused(against(county, f"sqlite:///{tmp_path / 'text.db'}"), "ENGINE_UNAVAILABLE")
    said = refused(against(county, "postgresql://u:geheim@127.0.0.1:1/x"), "ENGINE_UNAVAILABLE")
    assert "geheim" not in said
