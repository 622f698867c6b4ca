"""What each command does, what it refuses, and with which exit code."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.engine import make_url

from api.app import create_app
from api.parts import opened
from api.settings import read_settings
from ledger import audit
from ledger.commands import DecideDataRequest, EraseSubject, RequestData
from ledger.log import LedgerLog
from ledger.rules import Caller
from projections.figures import all_figures
from tests.cli import Done, running, wenming
from tests.county import County, sample_steps

COMMANDS = (
    "init", "serve", "follow", "verify", "rebuild", "replay", "diff", "explain", "what-if", "ranking", "config", "demo",
    "archive",
    "user", "user add", "user list", "user revoke",
    "key", "key new", "key rotate-master", "sign", "checkpoint", "prove", "check-proof", "check-certificate", "erase",
    "export", "export bundle", "export contract", "export sql",
    "topic", "topic create", "topic check", "relay", "work",
    "certificate", "certificate issue", "certificate print", "certificate revoke", "certificate list",
)  # fmt: skip
PATIENCE_SECONDS = 30


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WENMING_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a ledger with some history; commands that write work on a copy."""
    file = tmp_path_factory.mktemp("cli") / "told.db"
    county = County(f"sqlite:///{file}")
    county.tell(sample_steps())
    county.close()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file


@pytest.fixture
def history(told: Path, tmp_path: Path) -> str:
    """The address of a ledger with some history, this test's own."""
    shutil.copy(told, tmp_path / "history.db")
    return f"sqlite:///{tmp_path / 'history.db'}"


@pytest.fixture
def made(sqlite_url: str) -> Done:
    """A ledger just made at ``sqlite_url``."""
    done = wenming("init", "--database", sqlite_url)
    assert done.code == 0, done.err
    return done


def refused(done: Done, code: str) -> None:
    """Exit code 1, the error's code and its two sentences, nothing on stdout, no traceback."""
    assert done.code == 1
    assert done.err.startswith(f"{code}  ")
    assert len(done.err.strip().splitlines()) == 2
    assert done.out == ""


def rows(done: Done) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        assert process.poll() is None, "it stopped by itself"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def stopped(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE_SECONDS)


# --- help and usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = wenming(*command.split(), "--help")
    assert done.code == 0
    assert f"wenming {command}" in done.out


def test_the_help_names_every_command() -> None:
    listed = wenming("--help").out
    assert all(f" {command} " in listed for command in COMMANDS if " " not in command)


@pytest.mark.parametrize(
    "wrong", [["fly"], ["verify", "--loud"], ["diff", "volunteer_hours"], ["ranking", "--limit", "0"]]
)
def test_wrong_usage_is_exit_code_2(wrong: list[str]) -> None:
    done = wenming(*wrong)
    assert done.code == 2
    assert "Usage:" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    "command",
    [
        ["serve"],
        ["follow", "--once"],
        ["verify"],
        ["rebuild"],
        ["replay", "volunteer_hours"],
        ["diff", "volunteer_hours", "0"],
        ["explain", "volunteer_hours", "volunteer_id=x"],
        ["what-if", "--edition", "1"],
        ["ranking"],
        ["checkpoint"],
        ["topic", "create"],
        ["topic", "check"],
        ["relay", "--once"],
        ["relay", "--status"],
        ["prove", "1"],
        ["user", "add", "auditor"],
        ["user", "list"],
        ["user", "revoke", "x"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_no_command_makes_a_ledger_by_the_way(command: list[str], tmp_path: Path) -> None:
    refused(wenming(*command, "--database", f"sqlite:///{tmp_path}/none.db"), "LEDGER_MISSING")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["nonsense", "mysql://somewhere/ledger", "sqlite://"])
def test_a_place_that_cannot_hold_a_ledger_is_refused(place: str) -> None:
    refused(wenming("config", "--database", place), "INVALID_REQUEST")


def test_a_database_server_that_is_not_there_is_no_traceback() -> None:
    done = wenming("verify", "--database", f"postgresql://nobody@127.0.0.1:{free_port()}/ledger")
    assert done.code == 1
    assert done.err.startswith("OperationalError: ")
    assert "Traceback" not in done.err


def test_a_ledger_is_found_by_the_environment_too(history: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENMING_DATABASE", history)
    assert wenming("verify", "--no-figures").code == 0


# --- init ------------------------------------------------------------------------------------------------------------


def test_init_makes_a_ledger_with_keys_and_an_administrator(made: Done, sqlite_url: str) -> None:
    with opened(read_settings(database=sqlite_url)) as parts:
        assert parts.log.identity.kind == "production"
        assert [row.topic for row in parts.log.read(1, 10)] == ["rulebook.published"]
        assert parts.accounts.who(word_after("admin key", made)).role == "admin"
        assert parts.settings.master_key.stat().st_mode & 0o077 == 0
    assert wenming("verify", "--database", sqlite_url).code == 0


def test_init_refuses_to_do_it_twice(made: Done, sqlite_url: str) -> None:
    file = Path(str(make_url(sqlite_url).database))
    before = file.read_bytes()
    refused(wenming("init", "--database", sqlite_url), "LEDGER_EXISTS")
    assert file.read_bytes() == before
    with opened(read_settings(database=sqlite_url)) as parts:
        assert parts.accounts.who(word_after("admin key", made)).role == "admin"


def test_init_can_leave_the_rule_book_to_others(sqlite_url: str) -> None:
    assert wenming("init", "--no-rule-book", "--database", sqlite_url).code == 0
    with opened(read_settings(database=sqlite_url)) as parts:
        assert parts.log.head().size == 0


def word_after(label: str, done: Done) -> str:
    """The first word after a label at the beginning of a line of a result."""
    (line,) = (line for line in done.out.splitlines() if line.startswith(f"{label} "))
    return line.removeprefix(label).split()[0]


# --- verify ----------------------------------------------------------------------------------------------------------


def test_verify_says_what_it_checked(history: str) -> None:
    done = wenming("verify", "--database", history)
    assert done.code == 0, done.out
    assert f"✓ {len(all_figures())} figures equal what the facts give" in done.out
    assert "✓ no defect" in done.out
    with closing(LedgerLog.open(history)) as log:
        assert f"{log.head().size:,} facts" in done.out
        assert audit.verify(log).root in done.out


def test_verify_has_its_report_as_json(history: str) -> None:
    done = wenming("verify", "--json", "--database", history)
    report = json.loads(done.out)
    assert done.code == 0
    assert report["ok"] is True
    assert report["defects"] == []
    assert report["figures"].keys() == {figure.name for figure in all_figures()}
    assert report["checks"]["facts"] == report["size"] > 100


def edit(history: str, statement: str) -> None:
    """Change the stored file behind the ledger's back, as its owner can."""
    with closing(sqlite3.connect(str(make_url(history).database))) as connection:
        guards = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            connection.execute(f'DROP TRIGGER "{name}"')
        assert connection.execute(statement).rowcount >= 1
        for _, guard in guards:
            connection.execute(guard)
        connection.commit()


RENAMED = "UPDATE facts SET state = replace(state, '甘谷县', '天水市') WHERE position = 2"


def test_verify_names_the_position_of_an_edited_fact(history: str) -> None:
    edit(history, RENAMED)
    done = wenming("verify", "--database", history)
    assert done.code == 1
    assert "✗ LEAF_HASH_WRONG  position 2: " in done.out
    assert "no defect" not in done.out
    assert "figures equal" not in done.out


def test_verify_names_it_for_programs_too(history: str) -> None:
    edit(history, RENAMED)
    done = wenming("verify", "--json", "--database", history)
    report = json.loads(done.out)
    assert done.code == 1
    assert report["ok"] is False
    assert report["figures"] is None
    assert ("LEAF_HASH_WRONG", 2) in [(defect["code"], defect["position"]) for defect in report["defects"]]


def test_verify_finds_a_figure_that_was_edited(history: str) -> None:
    assert wenming("rebuild", "--database", history).code == 0
    edit(history, "UPDATE figure_volunteer_hours_v1 SET minutes = minutes + 60 WHERE minutes > 0")
    done = wenming("verify", "--database", history)
    assert done.code == 1
    assert "✗ FIGURE_DIFFERS  volunteer_hours: " in done.out
    report = json.loads(wenming("verify", "--json", "--database", history).out)
    assert report["ok"] is False
    assert [name for name, found in report["figures"].items() if found["differing_keys"]] == [
        "volunteer_hours"
    ]
    assert wenming("verify", "--no-figures", "--database", history).code == 0


def test_rebuilding_mends_an_edited_figure(history: str) -> None:
    assert wenming("follow", "--once", "--database", history).code == 0
    edit(history, "UPDATE figure_volunteer_hours_v1 SET minutes = minutes + 60 WHERE minutes > 0")
    done = wenming("rebuild", "volunteer_hours", "--database", history)
    assert done.code == 0
    assert done.out.split()[0] == "volunteer_hours"
    assert wenming("verify", "--database", history).code == 0


# --- rebuild ---------------------------------------------------------------------------------------------------------


def test_rebuild_names_the_figures() -> None:
    named = [line.split()[0] for line in wenming("rebuild", "--list").out.splitlines()]
    assert named == [figure.name for figure in all_figures()]


def test_rebuild_refuses_a_figure_nobody_knows(history: str) -> None:
    refused(wenming("rebuild", "hours_of_the_moon", "--database", history), "INVALID_REQUEST")


# --- replay, diff, explain, ranking ----------------------------------------------------------------------------------


def test_replay_tells_what_was_known_then(history: str) -> None:
    now = rows(wenming("replay", "volunteer_hours", "--json", "--database", history))
    assert len(now) > 1
    with closing(LedgerLog.open(history)) as log:
        middle = log.head().size // 2
        (row,) = log.read(middle, middle)
        known = row.state.partition(b'"recorded_at":"')[2][:27].decode()
        last = log.position_at(datetime.fromisoformat(known))
    then = rows(wenming("replay", "volunteer_hours", "--as-of", last, "--json", "--database", history))
    at = rows(wenming("replay", "volunteer_hours", "--as-of", known, "--json", "--database", history))
    assert then == at
    assert sum(row["minutes"] for row in then) != sum(row["minutes"] for row in now)
    assert rows(wenming("replay", "volunteer_hours", "--as-of", "0", "--json", "--database", history)) == []


def test_replay_keeps_the_rows_that_are_asked_for(history: str) -> None:
    everybody = rows(wenming("replay", "volunteer_hours", "--json", "--database", history))
    who = everybody[0]["volunteer_id"]
    own = rows(wenming("replay", "volunteer_hours", f"volunteer_id={who}", "--json", "--database", history))
    assert own == [row for row in everybody if row["volunteer_id"] == who]


def test_a_table_shows_whole_ids_where_nobody_looks_at_it(history: str) -> None:
    everybody = rows(wenming("replay", "volunteer_days", "--json", "--database", history))
    table = wenming("replay", "volunteer_days", "--database", history).out
    lines = table.splitlines()
    assert len(lines) == len(everybody) + 1
    for line, row in zip(lines[1:], everybody, strict=True):
        assert line.split() == [str(value) for value in row.values()]


def test_diff_tells_what_changed_and_the_facts_that_changed_it(history: str) -> None:
    changed = rows(wenming("diff", "volunteer_hours", "0", "--json", "--database", history))
    now = rows(wenming("replay", "volunteer_hours", "--json", "--database", history))
    assert sum(row["after"] for row in changed if row["measure"] == "minutes") == sum(
        row["minutes"] for row in now
    )
    assert all(row["before"] is None and row["facts"] for row in changed)
    with closing(LedgerLog.open(history)) as log:
        head = log.head().size
    assert rows(wenming("diff", "volunteer_hours", head, "--json", "--database", history)) == []


def test_diff_shows_before_and_after_and_when_each_fact_in_between_was_recorded(history: str) -> None:
    shown = wenming("diff", "volunteer_hours", "0", "--limit", "1", "--database", history).out
    (key, *rest) = shown.splitlines()
    assert key.startswith("volunteer_id ")
    assert any(re.fullmatch(r"  minutes: – → \d+", line) for line in rest)
    facts = [line for line in rest if " entry.posted, recorded 2026-03-" in line]
    assert 1 <= len(facts) <= 10
    assert rest[-1] == "1 keys changed"
    changed = rows(wenming("diff", "volunteer_hours", "0", "--limit", "1", "--json", "--database", history))
    assert [fact["position"] for fact in changed[0]["in_between"]] == changed[0]["facts"]


def test_what_if_reads_a_book_and_shows_what_would_differ(history: str, tmp_path: Path) -> None:
    (tmp_path / "book.toml").write_text("star_minutes = [60]\nday_minutes_free = 30\n", "utf-8")
    (tmp_path / "book.json").write_text('{"star_minutes": [60], "day_minutes_free": 30}', "utf-8")
    found = [
        json.loads(wenming("what-if", "--book", str(file), "--json", "--database", history).out)
        for file in sorted(tmp_path.glob("book.*"))
    ]
    assert found[0] == found[1]
    assert found[0]["changed_fields"] == ["star_minutes", "day_minutes_free"]
    assert found[0]["stars"]["changed"] > 0
    assert all(row["positions"] for row in found[0]["days"]["rows"])
    shown = wenming("what-if", "--book", str(tmp_path / "book.toml"), "--database", history).out
    assert f"days: {found[0]['days']['changed']} would differ" in shown
    assert "would_be_held" in shown
    none = wenming("what-if", "--edition", "1", "--first-on", "2026-03-01", "--database", history).out
    assert "days: 0 would differ" in none


@pytest.mark.parametrize(
    "content", [b"star_minutes =", b"\xff", b"star_minutes = [2, 1]", b"moon = 1", b"a = 1\n" * 200_000]
)
def test_a_book_that_is_none_is_refused(history: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "book.toml").write_bytes(content)
    refused(
        wenming("what-if", "--book", str(tmp_path / "book.toml"), "--database", history), "INVALID_REQUEST"
    )


def test_the_shares_of_an_explanation_add_up_to_the_figure(history: str) -> None:
    figure = max(
        rows(wenming("replay", "volunteer_hours", "--json", "--database", history)),
        key=lambda row: row["minutes"],
    )
    key = [f"{name}={figure[name]}" for name in ("volunteer_id", "source_class")]
    shares = rows(wenming("explain", "volunteer_hours", *key, "--json", "--database", history))
    assert len(shares) > 1
    assert sum(share["minutes"] for share in shares) == figure["minutes"]


def test_the_ranking_gives_the_entries_behind_each_row(history: str) -> None:
    done = wenming("ranking", "--json", "--database", history)
    assert done.code == 0
    ranking = json.loads(done.out)
    minutes = [row["minutes"] for row in ranking["rows"]]
    assert minutes == sorted(minutes, reverse=True)
    assert len(minutes) > 1
    assert all(row["entry_ids"] for row in ranking["rows"])
    assert len(json.loads(wenming("ranking", "--limit", 1, "--json", "--database", history).out)["rows"]) == 1


def test_the_ranking_prints_the_rule_it_follows(history: str) -> None:
    ranking = json.loads(wenming("ranking", "--json", "--database", history).out)
    shown = wenming("ranking", "--database", history).out
    assert ranking["tie_rule"]["zh"] in shown
    assert ranking["tie_rule"]["en"] in shown
    assert ranking["rows"][0]["volunteer_number"] in shown


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["replay", "hours_of_the_moon"], "INVALID_REQUEST"),
        (["replay", "volunteer_hours", "minutes=5"], "INVALID_REQUEST"),
        (["replay", "volunteer_hours", "volunteer_id"], "INVALID_REQUEST"),
        (["replay", "volunteer_hours", "--as-of", "99999"], "AS_OF_BEYOND_HEAD"),
        (["replay", "volunteer_hours", "--as-of", "2026-03-05"], "INVALID_REQUEST"),
        (["replay", "volunteer_hours", "--as-of", "yesterday"], "INVALID_REQUEST"),
        (["replay", "volunteer_hours", "--effective-on", "2026-13-01"], "INVALID_REQUEST"),
        (["diff", "volunteer_hours", "-1"], "INVALID_REQUEST"),
        (["diff", "volunteer_hours", "1", "99999"], "AS_OF_BEYOND_HEAD"),
        (["diff", "volunteer_hours", "9", "8"], "MOMENTS_REVERSED"),
        (["diff", "volunteer_hours", "1", "--where", "minutes=5"], "INVALID_REQUEST"),
        (["explain", "volunteer_hours", "unit=x"], "INVALID_REQUEST"),
        (["explain", "volunteer_hours", "volunteer_id=\udcff"], "INVALID_REQUEST"),
        (["what-if"], "INVALID_REQUEST"),
        (["what-if", "--edition", "1", "--book", "book.toml"], "INVALID_REQUEST"),
        (["what-if", "--edition", "99"], "INVALID_REQUEST"),
        (["what-if", "--book", "book.txt"], "INVALID_REQUEST"),
        (["what-if", "--edition", "1", "--as-of", "99999"], "AS_OF_BEYOND_HEAD"),
        (["what-if", "--edition", "1", "--as-of", "0"], "NO_RULE_BOOK"),
        (
            ["what-if", "--edition", "1", "--first-on", "2026-03-02", "--last-on", "2026-03-01"],
            "INVALID_REQUEST",
        ),
        (["ranking", "--rating-min", "good"], "INVALID_REQUEST"),
        (["ranking", "--rating-min", "NaN"], "INVALID_REQUEST"),
        (["ranking", "--as-of", "99999"], "AS_OF_BEYOND_HEAD"),
        (["ranking", "--first-on", "1 March"], "INVALID_REQUEST"),
        (["ranking", "--unit", "00000000-0000-0000-0000-000000000000"], "UNKNOWN_UNIT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_question_without_sense_is_refused(command: list[str], code: str, history: str) -> None:
    words = [command[0], "--database", history, "--", *command[1:]] if "-1" in command else command
    done = wenming(*words) if "-1" in command else wenming(*words, "--database", history)
    refused(done, code)


# --- users and settings ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("made")
def test_a_key_opens_what_its_role_may_until_it_is_revoked(sqlite_url: str) -> None:
    person = uuid4()
    done = wenming("user", "add", "auditor", "--person", person, "--database", sqlite_url)
    assert done.code == 0
    assert word_after("person", done) == str(person)
    key = word_after("key", done)
    settings = read_settings(database=sqlite_url)
    with opened(settings) as parts, TestClient(create_app(parts)) as client:
        # The rule book is the first fact: before the figures have it there is nothing to judge by.
        headers = {"Authorization": f"Bearer {key}", "Ledger-Min-Position": "1"}
        assert client.get("/v1/rankings/stars", headers=headers).status_code == 200
        own = [row for row in listed(sqlite_url) if row["person_id"] == str(person)]
        assert [(row["role"], row["revoked_at"]) for row in own] == [("auditor", None)]
        assert wenming("user", "revoke", own[0]["key_id"], "--database", sqlite_url).code == 0
        assert client.get("/v1/rankings/stars", headers=headers).status_code == 401
    assert [row["revoked_at"] for row in listed(sqlite_url) if row["person_id"] == str(person)] != [None]


def listed(url: str) -> list[dict[str, Any]]:
    return rows(wenming("user", "list", "--json", "--database", url))


def test_a_key_is_never_shown_again(made: Done, sqlite_url: str) -> None:
    key = word_after("admin key", made)
    secret = key.split("_")[-1]
    for done in (
        wenming("user", "list", "--database", sqlite_url),
        wenming("user", "list", "--json", "--database", sqlite_url),
    ):
        assert "admin" in done.out
        assert secret not in done.out


@pytest.mark.usefixtures("made")
def test_the_master_key_is_rotated_while_a_server_goes_on(sqlite_url: str) -> None:
    settings, person = read_settings(database=sqlite_url), uuid4()
    before = settings.master_key.read_bytes()
    with opened(settings) as parts:
        sealed = parts.keys.seal("volunteer.enrolled", person, {"name": "王秀英"})
        parts.keys._keys.forget()  # as if it had not opened anything of theirs yet
        done = wenming("key", "rotate-master", "--database", sqlite_url)
        assert done.code == 0, done.err
        assert parts.keys.unseal("volunteer.enrolled", sealed) == {"name": "王秀英"}
    assert Path(word_after("old key", done)).read_bytes() == before != settings.master_key.read_bytes()
    with opened(settings) as parts:
        assert parts.keys.unseal("volunteer.enrolled", sealed) == {"name": "王秀英"}
    settings.master_key.write_bytes(before)
    refused(wenming("key", "rotate-master", "--database", sqlite_url), "WRONG_MASTER_KEY")


@pytest.mark.usefixtures("made")
def test_a_key_that_expired_opens_nothing(sqlite_url: str) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=2)).isoformat()
    done = wenming("user", "add", "auditor", "--expires", past, "--database", sqlite_url)
    with opened(read_settings(database=sqlite_url)) as parts, TestClient(create_app(parts)) as client:
        headers = {"Authorization": f"Bearer {word_after('key', done)}"}
        assert client.get("/v1/rankings/stars", headers=headers).status_code == 401


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["add", "boss"], "INVALID_REQUEST"),
        (["add", "auditor", "--expires", "2027-01-01"], "INVALID_REQUEST"),
        (["add", "organiser", "--unit", "00000000-0000-0000-0000-000000000000"], "UNKNOWN_UNIT"),
        (["revoke", "nobody"], "NOT_FOUND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_an_account_without_sense_is_refused(command: list[str], code: str, sqlite_url: str) -> None:
    before = listed(sqlite_url)
    refused(wenming("user", *command, "--database", sqlite_url), code)
    assert listed(sqlite_url) == before


@pytest.mark.usefixtures("made")
def test_an_erasure_that_was_not_finished_is_carried_out(sqlite_url: str) -> None:
    person, request = uuid4(), uuid4()
    with opened(read_settings(database=sqlite_url)) as parts:
        parts.keys.ensure_keys([person])
        asked = RequestData(request_id=request, subject_id=person, kind="erasure")
        parts.ledger.handle(asked, Caller(person, "resident"))
        decided = DecideDataRequest(request_id=request, outcome="fulfilled")
        for command in (decided, EraseSubject(request_id=request)):
            parts.ledger.handle(command, Caller(uuid4(), "admin"))
        assert not parts.keys.is_erased(person)
    assert wenming("erase", "--database", sqlite_url).code == 2
    done = wenming("erase", "--resume", "--database", sqlite_url)
    assert (done.code, done.out.splitlines()) == (0, [f"erased {person}", "1 erasures carried out"])
    with opened(read_settings(database=sqlite_url)) as parts:
        assert parts.keys.is_erased(person)
    assert wenming("erase", "--resume", "--database", sqlite_url).out == "0 erasures carried out\n"


def test_settings_are_shown_without_passwords(tmp_path: Path) -> None:
    done = wenming(
        "config",
        "--database", "postgresql://clerk:tiger@127.0.0.1/ledger",
        "--keys", f"sqlite:///{tmp_path}/keys.db",
    )  # fmt: skip
    assert done.code == 0
    assert "tiger" not in done.out
    assert "WENMING_DATABASE" in done.out
    assert "WENMING_KAFKA_BOOTSTRAP" in done.out
    assert "postgresql://clerk:***@127.0.0.1/ledger" in done.out


# --- processes -------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return bool(json.load(answer)["status"] == "ok")
    except urllib.error.URLError:
        return False


@pytest.mark.usefixtures("made")
def test_a_server_answers_until_it_is_told_to_stop(sqlite_url: str, tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, "serve", "--database", sqlite_url, "--port", port) as process:
        wait_until(lambda: healthy(port), process)
        assert stopped(process) in (0, -signal.SIGTERM)
        assert "Traceback" not in (tmp_path / "output").read_text("utf-8")
        assert not healthy(port)
    assert wenming("verify", "--database", sqlite_url).code == 0


@pytest.mark.slow
def test_follow_brings_up_what_another_process_writes(tmp_path: Path, sqlite_url: str) -> None:
    county = County(sqlite_url)
    with closing(county.log), running(tmp_path, "follow", "--database", sqlite_url) as process:
        wait_until(lambda: figures_at(sqlite_url) == county.log.head().size, process)
        before = county.log.head().size
        county.serve(county.station, [county.volunteer(0)], 90)
        assert county.log.head().size > before
        wait_until(lambda: figures_at(sqlite_url) == county.log.head().size, process)
        assert minutes_live(sqlite_url) == [90]
        assert stopped(process) == 0
        assert "Traceback" not in (tmp_path / "output").read_text("utf-8")


def reading(url: str, query: str) -> list[Any]:
    """The first column of a query, read beside whoever writes; nothing before the table is there."""
    with closing(sqlite3.connect(str(make_url(url).database))) as connection:
        try:
            return [row[0] for row in connection.execute(query)]
        except sqlite3.OperationalError:
            return []


def figures_at(url: str) -> int | None:
    """How far the furthest behind of the figures is; None before there are any."""
    found = reading(url, "SELECT min(position) FROM figure_positions HAVING count(*) > 0")
    return found[0] if found else None


def minutes_live(url: str) -> list[int]:
    return reading(url, "SELECT minutes FROM figure_volunteer_hours_v1")


def test_the_status_of_the_figures_says_when_nobody_follows(history: str) -> None:
    behind = wenming("follow", "--status", "--lag-seconds-max", 0, "--database", history)
    assert (behind.code, behind.out) == (1, "")
    assert "PROJECTION_BEHIND" in behind.err
    assert wenming("follow", "--once", "--database", history).code == 0
    done = wenming("follow", "--status", "--lag-seconds-max", 0, "--database", history)
    head = done.out.split()[-1]
    assert (done.code, done.out) == (0, f"figures at position {head} of {head}\n")


def test_following_once_stops_by_itself(history: str) -> None:
    done = wenming("follow", "--once", "--database", history)
    with closing(LedgerLog.open(history)) as log:
        assert figures_at(history) == log.head().size
        assert f"figures at position {log.head().size:,}" in done.err
    assert done.code == 0
    assert done.out == ""
