"""`wenming key`, `sign`, `checkpoint`, `prove` and `check-proof`: what keeps the record provable, and checks it."""

import signal
import threading
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from api.cli.given import Database, open_log
from api.cli.shown import complain, say
from api.integrity import fact_at, proof_of
from api.settings import Settings, read_settings
from api.signing import signer_of
from ledger.checkpoint import Algorithm, Checkpoint, Note, VerifierKey
from ledger.errors import InvalidRequestError, NotFoundError, ProofWrongError
from ledger.proofs import PROOF_BYTES_MAX, InclusionProof
from ledger.signing_keys import create_key_file, read_key_files
from ledger.tree import TreeStore

Key = Annotated[
    Path | None, typer.Option(help="The file of signing keys, one a line (or WENMING_SIGNING_KEY).")
]
StateFile = Annotated[
    Path | None,
    typer.Option(help="The signer's own file, kept apart from the database (or WENMING_SIGNER_STATE)."),
]
VerifierKeys = Annotated[
    list[str] | None, typer.Option("--vkey", help="A public key of the log; more than one while keys change.")
]


def new(
    file: Annotated[Path, typer.Argument(help="Where the private key is to be; never overwritten.")],
    name: Annotated[str, typer.Option(help="The log's name (origin), such as ledger.example/gangu.")],
    witness: Annotated[bool, typer.Option("--witness", help="A key that cosigns, for a witness.")] = False,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="If the file is there, only print its public keys.")
    ] = False,
) -> None:
    """Make a signing key. The public key is printed, for everybody who is to check."""
    if if_missing and file.exists():
        keys = read_key_files([file])
    else:
        keys = [create_key_file(file, name, Algorithm.COSIGNATURE_V1 if witness else Algorithm.ED25519)]
    say(*(key.verifier_key.to_text() for key in keys))


def sign(
    database: Database = None,
    key: Key = None,
    state: StateFile = None,
    once: Annotated[
        bool, typer.Option(help="Check everything signed, sign up to the head, and stop.")
    ] = False,
    reset: Annotated[bool, typer.Option(help="Lift a halt, once its cause is known.")] = False,
) -> None:
    """Check every fact and sign checkpoints, until stopped. Halts at whatever does not fit what it signed before."""
    settings = _signer_settings(database, key, state)
    stop = threading.Event()
    if not once:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    with open_log(database) as log, signer_of(log, settings) as signer:
        if reset:
            halt = signer.reset()
            say(
                "it had not halted"
                if halt is None
                else f"reset: {halt.reason}, position {halt.position}, {halt.at}"
            )
        elif once:
            signer.check_past()
            complain(f"signed up to position {signer.sign_once():,}")
        else:
            signer.run(stop)


def checkpoint(
    database: Database = None,
    print_out: Annotated[
        bool, typer.Option("--print", help="A page to be printed, dated and kept where the database is not.")
    ] = False,
) -> None:
    """The newest checkpoint, as it is signed."""
    with open_log(database) as log:
        newest = TreeStore(log).latest()
    if newest is None:
        raise NotFoundError(what="checkpoint: nothing is signed yet")
    if not print_out:
        typer.echo(newest.note, nl=False)
        return
    origin = Checkpoint.parse(Note.parse(newest.note.encode()).text).origin
    root = newest.root.hex()
    say(
        "文明账本检查点 · Checkpoint of a Wenming Ledger",
        "",
        f"账本 log        {origin}",
        f"事实 facts      {newest.size:,}",
        f"签于 signed     {newest.signed_at}",
        f"树根 root       {' '.join(root[i : i + 8] for i in range(0, 32, 8))}",
        f"                {' '.join(root[i : i + 8] for i in range(32, 64, 8))}",
        "",
        newest.note,
        "签收 received by ____________________    日期 on ____________________",
    )


def prove(
    position: Annotated[int, typer.Argument(help="Which fact.")],
    size: Annotated[int | None, typer.Option(help="Under which checkpoint; the newest if left out.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="A file for the proof; it is printed if left out.")
    ] = None,
    database: Database = None,
) -> None:
    """Prove that a fact is in the log, to somebody who has no access to it (c2sp.org/tlog-proof)."""
    with open_log(database) as log:
        proof, published = proof_of(TreeStore(log), fact_at(log, position), size)
    if output is None:
        typer.echo(proof.to_text(), nl=False)
    else:
        output.write_text(proof.to_text(), encoding="utf-8", newline="")
        complain(f"position {position:,} under the checkpoint of size {published.size:,}")


def check_proof(
    file: Annotated[Path, typer.Argument(help="The proof.")],
    vkey: VerifierKeys = None,
    origin: Annotated[
        str | None, typer.Option(help="The log's name; that of the first key if left out.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="A file with the fact's stored text: check that it is this fact's.")
    ] = None,
) -> None:
    """Check a proof, here and now: no database, no network, nobody's word but the public key's."""
    keys = verifier_keys(vkey)
    if not keys:
        raise InvalidRequestError(problem="give the log's public key with --vkey")
    with file.open("rb") as opened:
        proof = InclusionProof.parse(opened.read(PROOF_BYTES_MAX + 1))
    found = proof.check(keys, origin or keys[0].name).checkpoint
    fact = proof.parts()
    if state is not None and sha256(state.read_bytes()).digest() != fact.state_digest:
        raise ProofWrongError(problem="the text in the file is not that of the fact")
    say(
        f"✓ position {proof.index + 1:,} of {found.origin}, under the signed checkpoint of size {found.size:,}",
        f"  {fact.topic}, version {fact.version} of stream {fact.stream_id}",
        f"  SHA-256 of its text {fact.state_digest.hex()}{'' if state is None else '  ✓ the file'}",
    )


def verifier_keys(texts: list[str] | None) -> list[VerifierKey]:
    """Public keys from their texts. NOTE_KEY_MALFORMED."""
    return [VerifierKey.from_text(text) for text in texts or ()]


def _signer_settings(database: str | None, key: Path | None, state: Path | None) -> Settings:
    """The signer needs no names and no keys of people."""
    return read_settings(
        database=database,
        keys="sqlite:///not-needed",
        master_key_file=Path("not-needed"),
        signing_key=key,
        signer_state=state,
    )
