"""Apache Flink for tests: one process for one question, from jars that Maven fetches (142 MB), gone in the end."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

Mode = Literal["batch", "streaming"]
Rows = dict[str, Counter[tuple[Any, ...]]]
"""The rows of each query, and how often each is there."""
HERE = Path(__file__).parent
MEMORY = "768m"
SECONDS_MAX = 240
JAVA = ("java", f"-Xmx{MEMORY}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Most of a short run is Flink compiling its own code: the quick compiler alone halves it (35 to 16 s of processor)."""
LISTENERS = ("rest.address", "rest.bind-address", "jobmanager.bind-host", "taskmanager.bind-host")


class Flink:
    """Runs SQL from its jars; what it writes to disk goes to ``folder``."""

    def __init__(self, jars: Path, folder: Path) -> None:
        self._jars, self._folder = jars, folder

    def rows(self, mode: Mode, statements: Sequence[str], queries: Mapping[str, str]) -> Rows:
        """The rows of each query once the statements were run."""
        settings = {
            "execution.runtime-mode": mode,
            "parallelism.default": "1",
            "io.tmp.dirs": str(self._folder),
            **dict.fromkeys(LISTENERS, "127.0.0.1"),
        }
        asked = {"settings": settings, "statements": list(statements), "queries": dict(queries)}
        command = [*JAVA, f"-Djava.io.tmpdir={self._folder}", "-cp", f"{self._jars}/*"]
        done = subprocess.run(
            [*command, str(HERE / "Flink.java")],
            input=json.dumps(asked),
            capture_output=True,
            encoding="utf-8",
            cwd=self._folder,
            timeout=SECONDS_MAX,
        )
        assert done.returncode == 0, done.stderr[-5_000:]
        found: Rows = {name: Counter() for name in queries}
        for name, sign, row in _lines(done.stdout):
            found[name][row] += 1 if sign.startswith("+") else -1
        return found


def _lines(printed: str) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    for line in printed.splitlines():
        name, sign, row = json.loads(line)
        # Flink puts JSON that it made itself into a row as what it is, not as text.
        yield name, sign, tuple(json.dumps(value) if isinstance(value, dict) else value for value in row)
