"""What `wenming demo` promises. One small demonstration is made a run; the default size is among the slow tests."""

import json
import re
import shutil
import signal
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from api import parts as wiring
from api.app import create_app
from api.cli.demo import _settings as demo_settings
from api.demo import run
from api.demo.county import County
from api.demo.run import KINDS, Plan, Told
from api.demo.story import Story
from api.parts import Parts
from api.settings import Settings, read_settings
from ledger.checkpoint import Note
from ledger.log import LedgerLog
from tests.cli import Done, running, wenming

SMALL = Plan(volunteers=150, months=3, seed=1)
TINY = Plan(volunteers=20, months=2, seed=3)
PATIENCE_SECONDS = 30
Content = list[tuple[int, UUID, int, str, dict[str, Any]]]
"""Positions, streams, versions, topics and states; sealed fields are blank."""


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "DATABASE", "KEYS", "MASTER_KEY_FILE", "HOST", "PORT", "BUSY_SECONDS", "FOLLOW", "SIGNING_KEY",
            "SIGNER_STATE", "WITNESSES",
        ):  # fmt: skip
            patch.delenv(f"WENMING_{name}", raising=False)
        yield


@dataclass(frozen=True)
class Demo:
    """A finished demonstration: where it is, and what its command said."""

    folder: Path
    done: Done

    @property
    def file(self) -> Path:
        return self.folder / "demo.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    @property
    def keys(self) -> list[tuple[str, str]]:
        """The sample keys: (what it is, the key)."""
        lines = (self.folder / "demo.keys.sample-keys.txt").read_text("utf-8").splitlines()
        return [(what, key) for key, what in (line.split("  ", 1) for line in lines)]

    def settings(self) -> Settings:
        return read_settings(database=self.url, follow=False)


def make(plan: Plan, url: str) -> Done:
    return wenming(*arguments(plan, url))


def arguments(plan: Plan, url: str) -> Sequence[object]:
    return (
        "demo", "--no-serve", "--volunteers", plan.volunteers, "--months", plan.months, "--seed", plan.seed,
        "--database", url,
    )  # fmt: skip


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A small demonstration, made by the command; nobody may write to it."""
    folder = tmp_path_factory.mktemp("small")
    done = make(SMALL, f"sqlite:///{folder}/demo.db")
    assert done.code == 0, done.err
    return Demo(folder, done)


@pytest.fixture
def copy(small: Demo, tmp_path: Path) -> Demo:
    """The small demonstration again, this test's own."""
    for file in small.folder.iterdir():
        shutil.copy2(file, tmp_path / file.name)
    return Demo(tmp_path, small.done)


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small one is told a second time, to another ledger."""
    return tmp_path_factory.mktemp("again")


@pytest.fixture(scope="session")
def again(second: Path) -> tuple[Told, Content]:
    """What came of telling the small one a second time."""
    return fill(SMALL, second)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """The facts of the tiny one, told without a break."""
    return fill(TINY, tmp_path_factory.mktemp("tiny"))[1]


def fill(plan: Plan, folder: Path) -> tuple[Told, Content]:
    with closing(open_demo(plan, folder)) as parts:
        return run.fill(parts, plan), content(parts.log)


def open_demo(plan: Plan, folder: Path) -> Parts:
    return run.open_demo(read_settings(database=f"sqlite:///{folder}/demo.db"), plan)


def content(log: LedgerLog) -> Content:
    rows = log.read(1, log.head().size)
    return [(row.position, row.stream_id, row.version, row.topic, _blank(row.state)) for row in rows]


def _blank(state: bytes) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(state)
    return {name: "sealed" if str(value).startswith("s1.") else value for name, value in values.items()}


def content_of(demo: Demo) -> Content:
    with closing(LedgerLog.open(demo.url)) as log:
        return content(log)


# --- the county ------------------------------------------------------------------------------------------------------


def test_every_unit_of_the_county_stands(small: Demo) -> None:
    facts = content_of(small)
    units = Counter(state["kind"] for *_, topic, state in facts if topic == "unit.established")
    assert units["centre"] == 1
    assert units["institute"] == 15
    assert units["station"] == 415
    assert units["base"] >= 60
    codes = [state["division_code"] for *_, topic, state in facts if topic == "unit.established"]
    assert len({code for code in codes if code}) == 1 + 15 + 415


def test_every_team_of_the_plan_is_formed_and_led(small: Demo) -> None:
    """S029, S031–S035: the corps, six professional and six civic teams, a branch each township, a squad each place."""
    facts = content_of(small)
    units = Counter(state["kind"] for *_, topic, state in facts if topic == "unit.established")
    teams = Counter(state["kind"] for *_, topic, state in facts if topic == "team.formed")
    assert teams == {
        "corps": 1,
        "professional": 6,
        "civic": 6,
        "branch": units["institute"],
        "squad": units["station"] + units["base"],
    }
    leads = [s for *_, topic, s in facts if topic == "team.sponsor_assigned" and s["role"] == "lead"]
    assert len(leads) == teams["professional"]
    led = {stream for _, stream, _, topic, _ in facts if topic == "team.leader_appointed"}
    assert len(led) == teams["corps"] + teams["branch"] + teams["squad"]


def test_the_county_lives_a_whole_life(small: Demo) -> None:
    """Orders placed, rejected, withdrawn, declined, served and rated; hours back-filled, amended and voided."""
    topics = Counter(topic for *_, topic, _ in content_of(small))
    assert topics["volunteer.enrolled"] == SMALL.volunteers
    for topic in (
        "order.placed", "order.rejected", "order.withdrawn", "order.declined", "order.served", "order.rated",
        "backfill.decided", "correction.decided", "session.corrected", "session.reversed",
    ):  # fmt: skip
        assert topics[topic] >= 1, topic


def test_the_ledger_is_marked_as_a_demonstration_for_ever(small: Demo) -> None:
    with closing(LedgerLog.open(small.url)) as log:
        assert log.identity.kind == "demo"


def test_nobody_is_named_in_the_ledger(small: Demo) -> None:
    county = County(SMALL.ledger_id, SMALL.volunteers, SMALL.seed)
    story = Story(county, SMALL.seed, SMALL.months, lambda *_: "")
    profiles = [story.profile(person) for person in county.people]
    stored = small.file.read_bytes()
    assert str(county.people[0].person_id).encode() in stored
    for profile in profiles:
        assert str(profile["id_number"]).encode() not in stored
        assert str(profile["phone"]).encode() not in stored
    own = {str(profile["name"]) for profile in profiles}
    assert any(name in small.done.out for name in own)  # unsealed for the top of the ranking only


# --- honesty ---------------------------------------------------------------------------------------------------------


def test_no_honest_request_is_refused(again: tuple[Told, Content]) -> None:
    told, facts = again
    assert told.refused == {}
    assert told.facts == len(facts)
    assert told.commands > 3000


def test_every_kind_of_fraud_is_refused_with_its_code(again: tuple[Told, Content]) -> None:
    told, _ = again
    assert told.attempts.keys() == KINDS.keys()
    for kind, (code, _) in KINDS.items():
        assert told.attempts[kind].keys() == {code}, kind


def test_another_seed_tells_another_story_as_honestly(tiny: Content, tmp_path: Path) -> None:
    told, facts = fill(Plan(TINY.volunteers, TINY.months, TINY.seed + 1), tmp_path)
    assert told.refused == {}
    assert {kind: set(codes) for kind, codes in told.attempts.items()} == {
        kind: {code} for kind, (code, _) in KINDS.items()
    }
    assert [topic for *_, topic, _ in facts] != [topic for *_, topic, _ in tiny]
    assert not {stream for _, stream, *_ in facts} & {stream for _, stream, *_ in tiny}


def test_the_fraud_is_shown_with_what_refused_it(small: Demo) -> None:
    for kind, (code, _) in KINDS.items():
        assert re.search(rf"^ {kind} .*\b{code} × [1-9]", small.done.out, re.MULTILINE), kind


def test_the_report_has_checks_timings_and_the_ranking(small: Demo) -> None:
    for said in ("✓ no defect", "figures equal what the facts give", "telling", "verifying", "rebuilding"):
        assert said in small.done.out
    assert re.search(r"^ 1 +gg-\d{6} +\S+ +\d+:\d\d", small.done.out, re.MULTILINE)
    assert "telling the story: " in small.done.err


# --- the same story again --------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_facts(small: Demo, again: tuple[Told, Content]) -> None:
    """The sample certificate, which a key of its own signs, follows the story."""
    _, facts = again
    whole = content_of(small)
    assert whole[: len(facts)] == facts
    assert [topic for *_, topic, _ in whole[len(facts) :]][:2] == [
        "issuer_key.registered",
        "certificate.issued",
    ]


@pytest.mark.usefixtures("again")
def test_only_sealed_bytes_differ_each_time(small: Demo, second: Path) -> None:
    first, other = (_enrolments(place) for place in (small.folder, second))
    assert first.keys() == other.keys()
    assert all(_blank(first[position]) == _blank(other[position]) for position in first)
    assert not set(first.values()) & set(other.values())


def _enrolments(folder: Path) -> dict[int, bytes]:
    with closing(LedgerLog.open(f"sqlite:///{folder}/demo.db")) as log:
        rows = log.read(1, log.head().size)
        return {row.position: row.state for row in rows if row.topic == "volunteer.enrolled"}


class Stopped(Exception):
    """Somebody pulled the plug."""


def test_an_interrupted_demonstration_is_carried_on(tiny: Content, tmp_path: Path) -> None:
    def stop(_what: str, done: int, whole: int) -> None:
        if done > 0.9 * whole:
            raise Stopped

    with closing(open_demo(TINY, tmp_path)) as parts:
        with pytest.raises(Stopped):
            run.fill(parts, TINY, stop)
        assert 0 < parts.log.head().size < len(tiny)
        assert not run.is_complete(parts)
    told, facts = fill(TINY, tmp_path)
    assert facts == tiny
    assert told.refused == {}


@pytest.mark.slow
def test_a_killed_demonstration_is_carried_on(tiny: Content, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/demo.db"
    with running(tmp_path, *arguments(TINY, url)) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while facts_in(tmp_path / "demo.db") < 1000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert facts_in(tmp_path / "demo.db") < len(tiny)
    done = make(TINY, url)
    assert done.code == 0, done.err
    assert content_of(Demo(tmp_path, done))[: len(tiny)] == tiny


def facts_in(file: Path) -> int:
    """How many facts a file holds by now, read beside whoever writes."""
    if not file.exists():
        return 0
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM facts").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


# --- a second start --------------------------------------------------------------------------------------------------


def test_a_second_start_reuses_what_is_there(copy: Demo) -> None:
    before = content_of(copy)
    done = make(SMALL, copy.url)
    assert done.code == 0, done.err
    assert done.out.startswith(f"reusing {copy.url} ({len(before):,} facts)")
    assert done.err == ""
    assert content_of(copy) == before
    assert (copy.folder / "demo.keys.sample-keys.txt").read_text("utf-8") == (
        "\n".join(f"{key}  {what}" for what, key in copy.keys) + "\n"
    )


def test_there_is_a_certificate_to_look_at(copy: Demo) -> None:
    """L18, T36: issued at the story's end, and printed once the demonstration is signed."""
    (number,) = re.findall(r"/verify/(\S+)", copy.done.out)
    key = copy.folder / "demo.issuer.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with wiring.opened(copy.settings()) as parts, TestClient(create_app(parts)) as client:
        shown = client.get(f"/verify/{number}", headers={"Accept": "application/json"}).json()
    assert (shown["status"], shown["number"]) == ("valid", number)
    assert shown["minutes"] > 600
    pdf = copy.folder / "demo.certificate.pdf"
    assert stat.S_IMODE(pdf.stat().st_mode) == 0o600
    checked = wenming("check-certificate", pdf, "--vkey", vkey_in(copy.done.out))
    assert checked.code == 0, checked.err
    assert number in checked.out


def test_a_second_start_with_other_parameters_says_so(copy: Demo) -> None:
    before = content_of(copy)
    done = make(TINY, copy.url)
    assert done.code == 0
    assert "other parameters" in done.err
    assert content_of(copy) == before


def test_lost_sample_keys_are_made_anew(copy: Demo) -> None:
    old = dict(copy.keys)
    (copy.folder / "demo.keys.sample-keys.txt").unlink()
    assert make(SMALL, copy.url).code == 0
    assert dict(copy.keys).keys() == old.keys()
    with wiring.opened(copy.settings()) as parts:
        assert [parts.accounts.who(key).role for _, key in copy.keys][:2] == ["admin", "auditor"]


def vkey_in(said: str) -> str:
    return re.findall(r"^public key: (\S+)", said, re.MULTILINE)[0]


def test_it_is_signed_and_verified_by_the_key_that_it_prints(copy: Demo) -> None:
    vkey = vkey_in(copy.done.out)
    checkpoint = wenming("checkpoint", "--database", copy.url, "--vkey", vkey)
    assert (checkpoint.code, checkpoint.out.split("\n")[1]) == (0, str(len(content_of(copy))))
    assert wenming("verify", "--no-figures", "--database", copy.url, "--vkey", vkey).code == 0
    assert (copy.folder / "demo.signing.key").stat().st_mode & 0o777 == 0o600
    assert vkey_in(make(SMALL, copy.url).out) == vkey


def test_one_that_was_never_signed_is_signed_at_its_next_start(copy: Demo) -> None:
    with sqlite3.connect(copy.file) as connection:
        connection.executescript("DROP TABLE checkpoints; DROP TABLE tree_tiles;")
    for file in copy.folder.glob("demo.signing.*"):
        file.unlink()
    done = make(SMALL, copy.url)
    assert (done.code, done.err) == (0, "")
    assert wenming("checkpoint", "--database", copy.url, "--vkey", vkey_in(done.out)).code == 0


def test_the_served_one_goes_on_signing_also_with_a_key_that_was_lost(copy: Demo) -> None:
    (copy.folder / "demo.signing.key").unlink()
    vkey = vkey_in(make(SMALL, copy.url).out)
    settings = demo_settings(copy.url, None)
    with wiring.opened(settings) as parts, TestClient(create_app(parts)) as client:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while vkey.split("+")[1] not in signers(client.get("/log/checkpoint").content):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def signers(note: bytes) -> set[str]:
    return {signature.key_id.hex() for signature in Note.parse(note).signatures}


def test_an_unfinished_demonstration_of_other_parameters_is_refused(tmp_path: Path) -> None:
    open_demo(TINY, tmp_path).close()
    done = make(SMALL, f"sqlite:///{tmp_path}/demo.db")
    assert done.code == 1
    assert done.err.startswith("OTHER_DEMO  ")
    assert facts_in(tmp_path / "demo.db") == 0


# --- what is none of its business ------------------------------------------------------------------------------------


def contents_of(folder: Path) -> dict[str, bytes]:
    """Every file's bytes; the write-ahead files come and go with whoever reads."""
    return {
        file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith(("-wal", "-shm"))
    }


def test_a_real_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/demo.db"
    assert wenming("init", "--database", url).code == 0
    before = contents_of(tmp_path)
    done = make(TINY, url)
    assert done.code == 1
    assert done.err.startswith("NOT_A_DEMO  ")
    assert contents_of(tmp_path) == before


def test_somebody_elses_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "recipes.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE recipes (title TEXT)")
        connection.execute("INSERT INTO recipes VALUES ('浆水面')")
        connection.commit()
        before = list(connection.iterdump())
    done = make(TINY, f"sqlite:///{file}")
    assert done.code == 1
    assert done.err.startswith("NOT_A_LEDGER  ")
    with closing(sqlite3.connect(file)) as connection:
        assert list(connection.iterdump()) == before
    assert contents_of(tmp_path).keys() == {"recipes.db"}


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("亲爱的王阿姨\n" * 100, "utf-8")
    before = contents_of(tmp_path)
    done = make(TINY, f"sqlite:///{file}")
    assert done.code == 1
    assert done.err.startswith("NOT_A_LEDGER  ")
    assert contents_of(tmp_path) == before


def test_the_keys_of_a_real_ledger_are_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, own = tmp_path / "real", tmp_path / "own"
    assert wenming("init", "--database", f"sqlite:///{real}/ledger.db").code == 0
    monkeypatch.setenv("WENMING_DATABASE", f"sqlite:///{real}/ledger.db")
    monkeypatch.setenv("WENMING_KEYS", f"sqlite:///{real}/ledger.keys.db")
    monkeypatch.setenv("WENMING_MASTER_KEY_FILE", str(real / "ledger.keys.master"))
    before = contents_of(real)
    assert make(Plan(20, 2, 1), f"sqlite:///{own}/demo.db").code == 0
    assert contents_of(real) == before
    assert {"demo.keys.db", "demo.keys.master"} <= contents_of(own).keys()


# --- trying it -------------------------------------------------------------------------------------------------------


def test_the_sample_keys_open_what_they_say(copy: Demo) -> None:
    keys = {what.split()[0]: (what, key) for what, key in copy.keys}
    assert keys.keys() == {
        "admin", "auditor", "committee", "organiser", "dispatcher", "recorder", "volunteer", "resident",
    }  # fmt: skip
    county = County(SMALL.ledger_id, SMALL.volunteers, SMALL.seed)
    institute = county.institute_of(county.people[0].squad)
    volunteer = keys["volunteer"][0].split()[-1]
    ranking, own_unit = "/v1/rankings/stars", f"/v1/units/{institute}/hours"
    whole_county, themself = f"/v1/units/{county.centre.unit_id}/hours", f"/v1/volunteers/{volunteer}"
    staff = {ranking: 403, own_unit: 200, whole_county: 403}
    expected: dict[str, dict[str, int]] = {
        "admin": {ranking: 200, whole_county: 200, themself: 200},
        "auditor": {ranking: 200, whole_county: 200, themself: 200},
        "committee": {ranking: 200, whole_county: 200},
        "organiser": staff,
        "dispatcher": staff,
        "recorder": staff,
        "volunteer": {themself: 200, ranking: 403},
        "resident": {"/v1/orders": 200, ranking: 403, themself: 403},
    }
    with wiring.opened(copy.settings()) as parts, TestClient(create_app(parts)) as client:
        for role, pages in expected.items():
            headers = {"Authorization": f"Bearer {keys[role][1]}"}
            seen = {page: client.get(page, headers=headers).status_code for page in pages}
            assert seen == pages, role


def test_sample_keys_are_for_their_owner_only(small: Demo) -> None:
    for file in ("demo.keys.sample-keys.txt", "demo.keys.master", "demo.keys.db"):
        assert (small.folder / file).stat().st_mode & 0o077 == 0, file


def test_it_is_served_at_the_end(copy: Demo) -> None:
    command = [word for word in arguments(SMALL, copy.url) if word != "--no-serve"]
    with running(copy.folder, *command, "--port", 0) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "Uvicorn running on" not in (said := (copy.folder / "output").read_text("utf-8")):
            assert process.poll() is None, said
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) in (0, -signal.SIGTERM)
    assert "demo.keys.sample-keys.txt" in said
    assert "Traceback" not in said


def test_the_same_facts_stand_on_postgresql(
    postgres_url: str, tiny: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = make(TINY, postgres_url)
    assert done.code == 0, done.err
    with closing(LedgerLog.open(postgres_url)) as log:
        assert content(log)[: len(tiny)] == tiny
    assert make(TINY, postgres_url).out.startswith("reusing postgresql://")
    name = postgres_url.rsplit("/", 1)[-1]
    assert (tmp_path / ".wenming" / f"{name}.keys.sample-keys.txt").exists()


# --- the shape of it -------------------------------------------------------------------------------------------------


def shape_of(facts: Content) -> dict[str, float]:
    """Shares of people by hours, and of sessions by what befell them (performance.md, realistic shape)."""
    minutes = Counter[UUID]()
    for _, stream, _, topic, state in facts:
        if topic == "entry.posted":
            minutes[stream] += state["minutes"]
    topics = Counter(topic for *_, topic, _ in facts)
    people, sessions = topics["volunteer.enrolled"], topics["session.recorded"]
    recorded = [state for *_, topic, state in facts if topic == "session.recorded"]
    return {
        "under 5 h": 1 - sum(m >= 5 * 60 for m in minutes.values()) / people,
        "over 200 h": sum(m > 200 * 60 for m in minutes.values()) / people,
        "missing check-out": sum(state["inferred"] for state in recorded) / sessions,
        "back-filled": sum(state["source_class"] == "backfilled" for state in recorded) / sessions,
        "corrected": topics["session.corrected"] / sessions,
        "voided": topics["session.reversed"] / sessions,
    }


def test_the_small_one_has_nearly_the_shape_of_real_life(again: tuple[Told, Content]) -> None:
    told, facts = again
    shape = shape_of(facts)
    assert shape["under 5 h"] == pytest.approx(0.70, rel=0.2)
    assert shape["missing check-out"] == pytest.approx(0.10, rel=0.2)
    assert shape["back-filled"] == pytest.approx(0.05, rel=0.4)
    assert shape["corrected"] == pytest.approx(0.01, rel=0.4)
    assert 0 < shape["voided"] < 0.005
    assert sum(sum(codes.values()) for codes in told.attempts.values()) == len(KINDS)


@pytest.mark.slow
def test_the_default_one_has_the_shape_of_real_life(tmp_path: Path) -> None:
    demo = Demo(tmp_path, wenming("demo", "--no-serve", "--database", f"sqlite:///{tmp_path}/demo.db"))
    assert demo.done.code == 0, demo.done.err
    facts = content_of(demo)
    shape = shape_of(facts)
    sessions = sum(topic == "session.recorded" for *_, topic, _ in facts)
    tries = [int(count) for count in re.findall(r"^ F\d\d.* × (\d+)", demo.done.out, re.MULTILINE)]
    assert shape | {"fraud": sum(tries) / sessions} == {
        "under 5 h": pytest.approx(0.70, rel=0.2),
        "over 200 h": pytest.approx(0.01, rel=0.2),
        "missing check-out": pytest.approx(0.10, rel=0.2),
        "back-filled": pytest.approx(0.05, rel=0.2),
        "corrected": pytest.approx(0.01, rel=0.2),
        "voided": pytest.approx(0.001, rel=0.2),
        "fraud": pytest.approx(0.005, rel=0.2),
    }
    commands = re.search(r"^([\d,]+) commands", demo.done.out, re.MULTILINE)
    assert commands is not None
    assert int(commands[1].replace(",", "")) >= 20_000
    assert sum(topic == "volunteer.enrolled" for *_, topic, _ in facts) == 2000
