"""`wenming` as people run it: in this process where its answer matters, as one of its own where it lives on."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

from api.cli import app, main

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


def wenming(*arguments: object) -> Done:
    """Run one command here, from its arguments to its exit code."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["wenming", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = _exit_code()
    finally:
        sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())


@cache
def _command() -> Any:
    return typer.main.get_command(app)


def parse(words: list[str], *, whole: bool) -> None:
    """Fails if the command line would not understand ``words``; a ``whole`` command also has all it needs."""
    command = _command()
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words[0]]
        words = words[1:]
    assert not words or not hasattr(command, "commands"), f"there is no command {words[0]}"
    if whole:
        command.make_context("wenming", list(words))
    else:
        command.make_parser(typer.Context(command)).parse_args(list(words))


def _exit_code() -> int:
    try:
        main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    return 0


@contextmanager
def running(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run one command as a process in ``folder``, its output in the file ``output`` there; killed at the end."""
    command = [sys.executable, "-m", "api.cli", *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WENMING_")}
    with (folder / "output").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
