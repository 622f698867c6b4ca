"""`wenming export`: what leaves the ledger as a file, or as text, for somebody who has no access to it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from api.cli.given import Database, open_log
from api.cli.relaying import Bootstrap, TopicName
from api.cli.shown import say
from api.cli.signing import Key, VerifierKeys, given_keys
from api.progress import progress
from api.settings import read_kafka_settings, read_settings
from ledger.asyncapi import contract_files
from ledger.bundling import export_bundle
from ledger.checkpoint import VerifierKey
from ledger.errors import ContractBrokenError, InvalidRequestError
from ledger.evolution import evolution_problems
from ledger.signing_keys import read_key_files
from projections import elsewhere


def bundle(
    file: Annotated[Path, typer.Argument(help="The zip file to make; never overwritten.")],
    database: Database = None,
    vkey: VerifierKeys = None,
    key: Key = None,
) -> None:
    """The whole log up to its newest checkpoint, to be checked anywhere: `wenming verify FILE --vkey KEY`.

    The public keys of the log are named in it: those of --vkey, else those of the signing key file. It is checked
    before it gets its name. Names stay sealed and no key store is in it; pseudonymous ids, times and minutes are in
    clear.
    """
    keys = given_keys(vkey, None, None).log or _own_keys(database, key)
    with open_log(database) as log, progress() as report:
        made = export_bundle(log, file, keys, report)
    say(f"{made.size:,} facts, {file.stat().st_size:,} bytes, root {made.root}")


def sql(
    engine: Annotated[str, typer.Argument(help="clickhouse, flink or risingwave.")],
    archive: Annotated[
        str | None,
        typer.Option(
            help="Read Parquet archives instead of the topic: a folder as the server sees it, or s3://…"
        ),
    ] = None,
    bootstrap: Bootstrap = None,
    topic: TopicName = None,
    totals: Annotated[
        bool, typer.Option("--totals", help="The queries that print what `wenming verify --against` reads.")
    ] = False,
    position: Annotated[
        int | None, typer.Option(min=0, help="With --totals: computed anew from the facts up to it.")
    ] = None,
) -> None:
    """The figures as a script for another engine, to be run there as it is. Needs no ledger."""
    name = elsewhere.engine_named(engine)
    if position is not None and not totals:
        raise InvalidRequestError(problem="--position goes with --totals: views hold whatever has arrived")
    if archive is not None and (totals or not archive.strip() or not archive.isprintable()):
        raise InvalidRequestError(problem="--archive names a folder or address, and goes without --totals")
    kind: elsewhere.Script = "totals" if totals else "topic" if archive is None else "archive"
    if archive is not None:
        script = elsewhere.archive_script(name, archive)
    elif totals:
        script = elsewhere.totals_script(name, position)
    else:
        kafka = read_kafka_settings(bootstrap=bootstrap, topic=topic)
        script = elsewhere.topic_script(name, elsewhere.Topic(kafka.topic, kafka.bootstrap))
    say(*(f"-- {line}" for line in elsewhere.heading(name, kind)), "")
    say(*(f"{statement};\n" for statement in script))


def _own_keys(database: str | None, file: Path | None) -> list[VerifierKey]:
    settings = read_settings(
        database=database,
        keys="sqlite:///not-needed",
        master_key_file=Path("not-needed"),
        signing_key=file,
    )
    if settings.signing_key is None:
        raise InvalidRequestError(
            problem="give the log's public keys with --vkey, or the file of signing keys with --key"
        )
    return [own.verifier_key for own in read_key_files([settings.signing_key])]


def contract(
    folder: Annotated[
        Path, typer.Argument(help="Where asyncapi.json and schemas/ are to be; made if missing.")
    ],
) -> None:
    """What programs that read the events topic may rely on: an AsyncAPI document and the JSON Schema of every event.

    Needs no ledger. An earlier contract in FOLDER is brought up to date, unless that would break what it promised.
    """
    made = contract_files()
    for name, content in made.items():
        if name.startswith("schemas/") and (folder / name).exists():
            _require_kept(folder / name, content)
    for name, content in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    say(f"{len(made)} files in {folder}")


def _require_kept(published: Path, content: bytes) -> None:
    """CONTRACT_BROKEN if a schema that is out already says otherwise."""
    try:
        problems = evolution_problems(json.loads(published.read_bytes()), json.loads(content))
    except ValueError:
        problems = ["it holds no JSON."]
    if problems:
        raise ContractBrokenError(file=published, problem=" ".join(problems))
