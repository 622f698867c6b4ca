"""`wenming key`, `sign`, `checkpoint`, `prove` and `check-proof`: what keeps the record provable, and checks it."""

import signal
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from api.cli.given import Database, open_log
from api.cli.shown import complain, posix_time, say
from api.integrity import fact_at, proof_of
from api.settings import Settings, read_settings
from api.signing import cosigning, cosignings_of, signer_of
from ledger.checkpoint import Algorithm, Checkpoint, Note, Signature, VerifierKey, open_checkpoint
from ledger.cosigning import WitnessReport, reports_of
from ledger.errors import InvalidRequestError, NotFoundError, ProofWrongError
from ledger.proofs import PROOF_BYTES_MAX, InclusionProof
from ledger.signer import read_state
from ledger.signing_keys import create_key_file, read_key_files
from ledger.tree import Published, TreeStore

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

WitnessKeys = Annotated[
    list[str] | None, typer.Option("--witness", help="A witness's public key; more than one for several.")
]
WitnessesMin = Annotated[
    int | None,
    typer.Option(
        "--witnesses-min", min=0, help="How many of them must have cosigned; all of them if left out."
    ),
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
    status: Annotated[
        bool, typer.Option("--status", help="Only say how far its state file is, and whether it halted.")
    ] = False,
    witnesses: Annotated[
        Path | None,
        typer.Option(help="Who is to cosign, one a line: public key, space, URL (or WENMING_WITNESSES)."),
    ] = None,
) -> None:
    """Check every fact and sign checkpoints, until stopped. Halts at whatever does not fit what it signed before."""
    settings = _signer_settings(database, key, state, witnesses)
    if status:
        _show_status(settings)
        return
    stop = threading.Event()
    if not once:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    with open_log(database) as log, signer_of(log, settings) as signer:
        asked = cosignings_of(log, settings)  # what is wrong with their file is said first
        if reset:
            halt = signer.reset()
            say(
                "it had not halted"
                if halt is None
                else f"reset: {halt.reason}, position {halt.position}, {halt.at}"
            )
        elif once:
            signer.check_past()
            size = signer.sign_once()
            complain(f"signed up to position {size:,}")
            reports = [one.gather() for one in asked]
            complain(*(line for one in reports for line in report_lines(one, size)))
        else:
            with cosigning(asked):
                signer.run(stop)


def checkpoint(
    database: Database = None,
    print_out: Annotated[
        bool, typer.Option("--print", help="A page to be printed, dated and kept where the database is not.")
    ] = False,
    vkey: VerifierKeys = None,
    witness: WitnessKeys = None,
    witnesses_min: WitnessesMin = None,
) -> None:
    """The newest checkpoint, as it is signed; beside it (on stderr) how it stands with the witnesses.

    With public keys it is checked, and refused if it does not hold.
    """
    keys = given_keys(vkey, witness, witnesses_min)
    with open_log(database) as log:
        newest, reports = TreeStore(log).latest(), reports_of(TreeStore(log))
    if newest is None:
        raise NotFoundError(what="checkpoint: nothing is signed yet")
    found = Note.parse(newest.note.encode())
    if keys.log:
        opened = open_checkpoint(newest.note.encode(), keys.log[0].name, keys.log, keys.witnesses)
        opened.require_witnesses(keys.witnesses_min)
        trusted = {one.signature for one in (*opened.log_signatures, *opened.cosignatures)}
    else:
        trusted = set()
    if print_out:
        say(*_page(newest, found, trusted))
    else:
        typer.echo(newest.note, nl=False)
    complain(*(line for one in reports for line in report_lines(one, newest.size)))


def _page(newest: Published, note: Note, trusted: set[Signature]) -> list[str]:
    """What is signed by hand and kept in a drawer."""
    root = newest.root.hex()
    return [
        "文明账本检查点 · Checkpoint of a Wenming Ledger",
        "",
        f"账本 log        {Checkpoint.parse(note.text).origin}",
        f"事实 facts      {newest.size:,}",
        f"签于 signed     {newest.signed_at}",
        f"树根 root       {' '.join(root[i : i + 8] for i in range(0, 32, 8))}",
        f"                {' '.join(root[i : i + 8] for i in range(32, 64, 8))}",
        *(_signed_by(one, one in trusted) for one in note.signatures),
        "",
        newest.note,
        "签收 received by ____________________    日期 on ____________________",
    ]


def _signed_by(signature: Signature, is_trusted: bool) -> str:
    """Who signed, and when if it is a witness; what was not checked is marked so."""
    is_timed = len(signature.value) == 8 + 64  # a time and an Ed25519 signature: a witness's
    who = f"{'副署 cosigned  ' if is_timed else '签名 signed by '} {signature.name}+{signature.key_id.hex()}"
    at = f"  {posix_time(int.from_bytes(signature.value[:8], 'big'))}" if is_timed else ""
    return f"{who}{at}  {'✓' if is_trusted else '(未核对 not checked)'}"


def report_lines(report: WitnessReport, size: int) -> list[str]:
    """How it stands with a witness, for people."""
    if report.trouble:
        zh, en = report.sentences(size)
        mark = "✗ ALARM " if report.is_alarm else "! "
        return [f"{mark}{report.trouble}  {report.witness}, since {report.trouble_at}", f"  {zh}", f"  {en}"]
    if report.size == 0:  # there was nothing to cosign yet
        return []
    return [f"✓ {report.witness}  cosigned size {report.size:,} at {report.cosigned_at}"]


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
    witness: WitnessKeys = None,
    witnesses_min: WitnessesMin = None,
) -> None:
    """Check a proof, here and now: no database, no network, nobody's word but the public keys'."""
    keys = given_keys(vkey, witness, witnesses_min)
    if not keys.log:
        raise InvalidRequestError(problem="give the log's public key with --vkey")
    with file.open("rb") as opened:
        proof = InclusionProof.parse(opened.read(PROOF_BYTES_MAX + 1))
    under = proof.check(keys.log, origin or keys.log[0].name, keys.witnesses)
    under.require_witnesses(keys.witnesses_min)
    found = under.checkpoint
    fact = proof.parts()
    if state is not None and sha256(state.read_bytes()).digest() != fact.state_digest:
        raise ProofWrongError(problem="the text in the file is not that of the fact")
    say(
        f"✓ position {proof.index + 1:,} of {found.origin}, under the signed checkpoint of size {found.size:,}",
        f"  {fact.topic}, version {fact.version} of stream {fact.stream_id}",
        f"  SHA-256 of its text {fact.state_digest.hex()}{'' if state is None else '  ✓ the file'}",
        *(
            f"  cosigned by {one.key.label} at {posix_time(one.time_seconds or 0)}"
            for one in under.cosignatures
        ),
    )


@dataclass(frozen=True)
class Keys:
    """Public keys that are believed: the log's and its witnesses', of whom ``witnesses_min`` must have cosigned."""

    log: list[VerifierKey]
    witnesses: list[VerifierKey]
    witnesses_min: int


def given_keys(vkey: list[str] | None, witness: list[str] | None, witnesses_min: int | None) -> Keys:
    """Keys from their texts; every witness that is named counts, unless fewer will do.

    NOTE_KEY_MALFORMED, INVALID_REQUEST.
    """
    keys, witnesses = ([VerifierKey.from_text(text) for text in texts or ()] for texts in (vkey, witness))
    if witnesses and not keys:
        raise InvalidRequestError(problem="with --witness, give the log's public key too: --vkey")
    named = len({one.name for one in witnesses})
    if witnesses_min is not None and named < witnesses_min:
        raise InvalidRequestError(
            problem=f"--witnesses-min {witnesses_min} needs as many witnesses' keys: --witness"
        )
    return Keys(keys, witnesses, named if witnesses_min is None else witnesses_min)


def _show_status(settings: Settings) -> None:
    """From the state file alone, beside a signer that runs. SIGNER_HALTED, if it is or the file cannot be read."""
    found = read_state(settings.state_file)
    say(f"signed up to position {found.signed.size:,} at {found.signed_at}")


def _signer_settings(
    database: str | None, key: Path | None, state: Path | None, witnesses: Path | None
) -> Settings:
    """The signer needs no names and no keys of people."""
    return read_settings(
        database=database,
        keys="sqlite:///not-needed",
        master_key_file=Path("not-needed"),
        signing_key=key,
        signer_state=state,
        witnesses=witnesses,
    )
