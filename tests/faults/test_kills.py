"""Processes are killed at any moment: nothing acknowledged is lost, nothing is doubled, and work goes on."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import services
from tests.faults import Hand, chances, hands, times
from tests.faults.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]


class Workers:
    """The three that work on a scene; whoever is killed is begun again, the appending one with what it was at."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.hands = {who: self._begin(who) for who in ("append", "project", "sign")}

    def _begin(self, who: str) -> Hand:
        scene = self.scene
        if who == "append":
            return Hand(hands.append, scene.url, scene.began, len(scene.answers))
        return (
            Hand(hands.project, scene.url) if who == "project" else Hand(hands.sign, scene.url, scene.state)
        )

    def hear(self, who: str, heard: list[object]) -> None:
        scene = self.scene
        {
            "append": scene.heard_of_appending,
            "project": scene.heard_of_following,
            "sign": scene.heard_of_signing,
        }[who](heard)

    def hear_one(self, who: str) -> None:
        """It is at work: it was heard of once more."""
        self.hear(who, [self.hands[who].hear()])

    def stop(self, who: str) -> None:
        self.hear(who, self.hands.pop(who).kill())

    def kill(self, who: str) -> None:
        self.stop(who)
        if who == "append":
            self.scene.ask_again(len(self.scene.answers))
        self.hands[who] = self._begin(who)

    def end(self) -> None:
        for who in list(self.hands):
            self.stop(who)
        self.scene.ask_again(len(self.scene.answers))


def test_processes_killed_on_sqlite(sqlite_url: str, tmp_path: Path) -> None:
    random, kills = chances("kills of processes on SQLite"), times(200)
    scene, killed = Scene(sqlite_url, tmp_path), Counter[str]()
    workers = Workers(scene)
    for number in range(kills):
        who = ("append", "project", "sign")[number % 3]
        workers.hear_one(who)
        time.sleep(random.uniform(0, 0.03))
        workers.kill(who)
        killed[who] += 1
        if number % 40 == 39:
            workers.end()
            scene.check()
            workers = Workers(scene)
    workers.end()
    scene.check()
    print(
        f"killed {dict(killed)}; {len(scene.answers)} commands, {scene.replayed} of them unknown and done already"
    )
    print(f"{len(scene.signed)} checkpoints, {scene.log.head().size} facts")
    scene.close()


@pytest.fixture
def own_server() -> Iterator[services.PostgresServer]:
    """A server that nobody else uses: it is killed."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(services.private_server())
        except services.ServiceMissingError as missing:
            if services.required():
                pytest.fail(f"PostgreSQL is required here: {missing}")
            pytest.skip(f"PostgreSQL: {missing}")
        yield server


def test_the_whole_postgresql_server_killed(own_server: services.PostgresServer, tmp_path: Path) -> None:
    """The processes live on, lose all connections, and go on by themselves when the server is there again."""
    random, kills = chances("kills of the PostgreSQL server"), times(20)
    with services.fresh_database(own_server.address, "killed") as url:
        scene = Scene(url, tmp_path)
        workers = Workers(scene)
        for number in range(kills):
            for who in workers.hands:
                workers.hear_one(who)
            time.sleep(random.uniform(0, 0.2))
            own_server.kill()
            time.sleep(random.uniform(0, 0.2))
            own_server.start()
            scene.log.engine.dispose()  # its connections are of the server that was killed
            if number % 5 == 4:
                workers.end()
                scene.check()
                workers = Workers(scene)
        workers.end()
        scene.check()
        print(
            f"{kills} kills; {len(scene.answers)} commands, {scene.replayed} of them unknown and done already"
        )
        print(f"{len(scene.signed)} checkpoints, {scene.log.head().size} facts")
        scene.close()
