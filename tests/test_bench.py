"""The benchmark runs and says everything it promises. How fast anything was is nobody's pass or failure."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from bench import facts, grown, relay, size, table, travel, workers
from ledger import archive
from ledger.audit import verify
from ledger.codec import decode
from ledger.log import LedgerLog

ROOT = Path(__file__).parent.parent


@pytest.mark.slow  # about 25 s
def test_it_prints_every_row_and_writes_them_as_json(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench", "--facts", "2000", "--database", "sqlite", "--output", output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    for line in table.LINES:
        assert f"sqlite    {line.text} " in done.stdout
    document = json.loads(output.read_text("utf-8"))
    assert document.keys() >= {"command", "machine", "versions", "facts", "databases", "figures"}
    assert document["facts"] == 2000
    assert [figure["figure"] for figure in document["figures"]] == [line.key for line in table.LINES]
    assert all(figure["ours"] > 0 for figure in document["figures"])
    both = {figure["figure"] for figure in document["figures"] if figure["times_eventsourcing"]}
    assert both >= {"append_one", "append_16", "handle_16", "append_100", "read", "rebuild_one"}
    durability = document["databases"]["sqlite"]
    assert durability["ours"] == durability["eventsourcing"] == "journal_mode=wal synchronous=2"


@pytest.mark.slow  # it asks every figure many questions: a few seconds
def test_going_back_is_measured_with_an_archive_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(travel, "KEYS", 2)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    log = LedgerLog.create(url, ledger_id=facts.LEDGER_ID, kind="demo", created_at=facts.START)
    facts.write(log, 3000)
    archive.write(log, tmp_path / "ledger.db.archive", 1000)
    log.close()
    output = tmp_path / "travel.json"
    for without in ([], ["--without-archive"]):
        travel.main(["--database", url, "--output", str(output), *without])
        found = json.loads(output.read_text("utf-8"))
        assert found["facts"] == 3000
        hours = found["milliseconds"]["volunteer_hours"]
        assert {"whole", "key_p95", "explain_p95", "diff_1000_head", "diff_1000_middle"} <= hours.keys()
        assert found["milliseconds"]["what_if"]["whole"] > 0


def test_its_facts_are_ones_the_ledger_reads_in_streams_without_gaps() -> None:
    versions: Counter[UUID] = Counter()
    recorded = facts.START
    made = list(facts.stored_facts(3000))
    assert len(made) == 3000
    for stored in made:
        assert isinstance(stored.originator_id, UUID)
        fact = decode(stored.topic, stored.originator_id, stored.originator_version, stored.state)
        versions[stored.originator_id] += 1
        assert stored.originator_version == versions[stored.originator_id]
        assert fact.recorded_at >= recorded
        recorded = fact.recorded_at
    assert made == list(facts.stored_facts(3000))
    for stored in (*facts.entries(2), *facts.renewed(4, recorded)):
        assert isinstance(stored.originator_id, UUID)
        decode(stored.topic, stored.originator_id, stored.originator_version, stored.state)


def test_its_hours_are_spread_as_in_a_real_county() -> None:
    spread = facts.skew(200_000)
    assert spread["under_5_hours"] == pytest.approx(0.7, abs=0.03)
    assert spread["over_200_hours"] == pytest.approx(0.01, abs=0.002)


@pytest.mark.slow
def test_it_shows_ever_larger_ledgers(tmp_path: Path) -> None:
    output = tmp_path / "size.json"
    sizes = ["--facts", "3000", "--archive-only", "4000"]
    command = [sys.executable, "-m", "bench.size", *sizes, "--folder", tmp_path, "--output", output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    document = json.loads(output.read_text("utf-8"))
    assert document.keys() >= {"command", "machine", "load", "sizes"}
    assert document["sizes"].keys() == {"3,000", "4,000 *"}
    for line in size.LINES:
        assert f"\n{line.text} " in done.stdout
        assert document["sizes"]["3,000"][line.key] >= 0
        assert (line.key in document["sizes"]["4,000 *"]) == line.key.startswith("archive_")
    assert [path.name for path in tmp_path.iterdir()] == ["size.json"]


def test_many_counties_make_a_sound_log_and_the_archive_that_would_be_written_of_it(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grown, "COUNTY", 1_000)
    log = LedgerLog.create(sqlite_url, ledger_id=facts.LEDGER_ID, kind="demo", created_at=facts.START)
    grown.write_log(log, 3_000)
    assert verify(log).ok
    grown.write_archive(log, tmp_path / "archive", 3_000, 700)
    checked = archive.check(log, tmp_path / "archive")
    assert (checked.facts, checked.wrong) == (2_800, ())
    assert archive.write(log, tmp_path / "archive", 700) == []
    topics = {row.topic: {other.topic for other in log.stream(row.stream_id)} for row in log.read(1, 3)}
    assert topics == {
        "rulebook.published": {"rulebook.published"}
    }  # one county after the other takes its turn
    log.close()


def test_a_target_is_as_far_away_as_its_farthest_part() -> None:
    line = next(line for line in table.LINES if line.key == "rebuild_one")
    target = table.Target("rebuild_one", "sqlite", least=700_000, times=300)
    figure = table.Figure("sqlite", line, 1_400_000.0, 10_000.0, target)
    assert figure.times_theirs == 140
    assert figure.of_target == pytest.approx(140 / 300)
    latency = next(line for line in table.LINES if line.key == "live_p50")
    assert table.Figure("sqlite", latency, 1.5, 6.0, table.Target("live_p50", "sqlite", 3)).of_target == 2
    assert table.Figure("sqlite", latency, 1.5, 6.0, None).times_theirs == 4


@pytest.mark.slow  # it starts a broker and a PostgreSQL server
def test_how_fast_facts_leave_is_measured_on_both_databases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "relay.json"
    relay.main(["--facts", "6000", "--commands", "5", "--output", str(output)])
    found = json.loads(output.read_text("utf-8"))
    assert found["broker"]["start_seconds"] > 0
    for figures in found["figures"].values():
        assert figures["record_ms_50"] >= figures["command_ms_50"] > 0
        assert all(figures[f"facts_per_second_{batch}"] > 0 for batch in relay.BATCHES)
    assert "command to committed record, p99, ms" in capsys.readouterr().out


@pytest.mark.slow  # it starts a broker and a PostgreSQL server
def test_how_many_facts_workers_count_is_measured_with_one_two_and_four(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "workers.json"
    workers.main(["--facts", "3000", "--rounds", "1", "--output", str(output)])
    found = json.loads(output.read_text("utf-8"))
    assert found["runs"].keys() == {f"{store} {count}" for store, count in workers.RUNS}
    for (figures,) in found["runs"].values():
        assert figures["facts_per_second"] > 0
        assert figures["cpu_microseconds_per_fact"] > 0
    assert "worker CPU a fact" in capsys.readouterr().out
