"""All configuration, read once (environment: ``WENMING_*``) and handed down. Nothing else reads the environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self, TypeVar
from uuid import UUID

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ledger.brokers import Brokers, login_of
from ledger.cosigning import WitnessAt, witnesses_of
from ledger.errors import InvalidRequestError
from ledger.relay import TRANSACTION_SECONDS

T = TypeVar("T", bound=BaseSettings)


class Settings(BaseSettings):
    """Where things are and how long to wait. URLs may hold passwords: show `shown`, never the fields."""

    model_config = SettingsConfigDict(env_prefix="WENMING_", extra="forbid", frozen=True)

    database: str = "sqlite:///wenming.db"
    """The ledger: ``sqlite:///file`` or ``postgresql://user@host/database``."""
    database_password_file: Path | None = None
    """A file that holds the password for `database` on PostgreSQL, unless the URL says one itself."""
    keys: str = ""
    """The key store and accounts; left out, ``<ledger file>.keys.db`` beside an SQLite ledger."""
    keys_password_file: Path | None = None
    """A file that holds the password for `keys` on PostgreSQL, unless the URL says one itself."""
    master_key_file: Path | None = None
    """The master key that wraps all keys; left out, ``<key store file>.master``."""
    archive: Path | None = None
    """Where `wenming archive` keeps old facts; left out, ``<ledger file>.archive`` beside an SQLite ledger."""
    keep_archive: bool = True
    """Whether whatever follows also archives, in a process of its own, each segment that becomes whole."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    busy_seconds: float = Field(default=5.0, gt=0, le=600)
    """How long a write waits for another writer before LEDGER_BUSY."""
    follow: bool | None = None
    """Whether `serve` keeps the figures up itself; left out: yes on SQLite, no on PostgreSQL."""
    signing_key: Path | None = None
    """The file of the keys that sign checkpoints; left out, `serve` signs nothing."""
    signer_state: Path | None = None
    """The signer's own file; left out, ``<signing key file>.state.json``. Never inside the database, nor its backup."""
    witnesses: Path | None = None
    """A file of who is asked to cosign checkpoints, one a line: public key, space, URL; left out, nobody is."""
    certificate_key: Path | None = None
    """The file of the key that signs certificates (`wenming key new`); left out, none are printed."""
    public_url: str = Field(default="", pattern=r"^(https?://[^\s?#]+)?$", max_length=200)
    """Where anybody checks a certificate: what stands before ``/verify``; left out, ``http://{host}:{port}``."""
    wait_seconds: float = Field(default=2.0, ge=0, le=60)
    """How long a read waits for the figures to reach Ledger-Min-Position."""

    @model_validator(mode="after")
    def _beside_the_ledger(self) -> Self:
        for name in ("database", "keys"):
            _require_url(name, getattr(self, name))
            object.__setattr__(
                self, name, _with_password(name, getattr(self, name), self._password_file(name))
            )
        url = make_url(self.database)
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise ValueError("database: a URL beginning with sqlite:/// or postgresql://")
        if self.archive is None and url.get_backend_name() == "sqlite" and url.database:
            object.__setattr__(self, "archive", Path(f"{url.database}.archive"))
        if not self.keys:
            if url.get_backend_name() != "sqlite" or not url.database:
                raise ValueError(
                    "keys: a ledger on PostgreSQL needs WENMING_KEYS, in another database than its own"
                )
            object.__setattr__(self, "keys", f"sqlite:///{Path(url.database).with_suffix('.keys.db')}")
        if make_url(self.keys) == url:
            raise ValueError("keys: the key store never lies in the ledger's own database")
        if self.master_key_file is None:
            kept = make_url(self.keys)
            if kept.get_backend_name() != "sqlite" or not kept.database:
                raise ValueError(
                    "master_key_file: needs WENMING_MASTER_KEY_FILE beside a key store on PostgreSQL"
                )
            object.__setattr__(self, "master_key_file", Path(kept.database).with_suffix(".master"))
        return self

    def _password_file(self, name: str) -> Path | None:
        return {"database": self.database_password_file, "keys": self.keys_password_file}[name]

    @property
    def public_address(self) -> str:
        """`public_url`, without a slash at its end."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def master_key(self) -> Path:
        """The file of the master key."""
        assert self.master_key_file is not None
        return self.master_key_file

    @property
    def on_sqlite(self) -> bool:
        return make_url(self.database).get_backend_name() == "sqlite"

    @property
    def follows(self) -> bool:
        """Whether `serve` follows in its own process."""
        return self.on_sqlite if self.follow is None else self.follow

    @property
    def growing_archive(self) -> Path | None:
        """The archive that whatever follows keeps up; None for none."""
        return self.archive if self.keep_archive else None

    @property
    def signs(self) -> bool:
        """Whether `serve` signs in its own process: only where it is the one process that writes."""
        return self.on_sqlite and self.signing_key is not None

    @property
    def state_file(self) -> Path:
        """The signer's state; INVALID_REQUEST if there is no key to sign with."""
        if self.signing_key is None:
            raise InvalidRequestError(problem="settings: signing needs --key or WENMING_SIGNING_KEY")
        return self.signer_state or self.signing_key.with_name(self.signing_key.name + ".state.json")

    @property
    def cosigners(self) -> list[WitnessAt]:
        """Who is asked to cosign; INVALID_REQUEST says what is wrong with their file."""
        if self.witnesses is None:
            return []
        try:
            return witnesses_of(self.witnesses.read_text("utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            problem = f"settings: witnesses: {self.witnesses} cannot be read ({type(error).__name__})"
            raise InvalidRequestError(problem=problem) from None

    def shown(self) -> dict[str, object]:
        """Every setting as people may see it, passwords hidden."""
        values = self.model_dump(mode="json")
        values |= {
            name: make_url(str(values[name])).render_as_string(hide_password=True)
            for name in ("database", "keys")
        }
        return values | {"follow": self.follows}


class WitnessSettings(BaseSettings):
    """What `wenming witness` is told (environment: ``WENMING_WITNESS_*``). It has no ledger and needs none."""

    model_config = SettingsConfigDict(env_prefix="WENMING_WITNESS_", extra="forbid", frozen=True)

    key: Path
    """The file of the keys that cosign, made by `wenming key new --witness`."""
    state: Path
    """The folder where it remembers what it cosigned. To lose it is to forget what was seen."""
    logs: Path | None = None
    """A file of the logs it watches, one a line: public key, and the log's origin if it is not the key's name."""
    host: str = "127.0.0.1"
    port: int = Field(default=8100, ge=0, le=65535)


class KafkaSettings(BaseSettings):
    """How Kafka is reached and which topic is used (environment: ``WENMING_KAFKA_*``)."""

    model_config = SettingsConfigDict(env_prefix="WENMING_KAFKA_", extra="forbid", frozen=True)

    bootstrap: str = Field(default="127.0.0.1:9092", min_length=3, max_length=1000)
    """Some brokers, ``host:port`` with commas between."""
    topic: str = Field(default="volunteer.ledger.events.v1", pattern=r"^[a-zA-Z0-9._-]{1,180}$")
    """The topic that carries the facts."""
    partitions: int = Field(default=12, ge=1, le=1000)
    """Of that topic. Never changed later: facts of one key would move, and lose their order."""
    replication: int = Field(default=3, ge=1, le=9)
    """Brokers that keep each record, for `wenming topic create`; 1 where there is one broker."""
    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    user: str | None = None
    password_file: Path | None = None
    """The file whose first line is the user's password."""
    ca_file: Path | None = None
    """Certificates of who may have signed the brokers' (PEM); left out, those of the system."""
    transaction_seconds: float = Field(default=TRANSACTION_SECONDS, ge=1, le=900)
    """After so long without an end the brokers abort what a relay began; no answer for so long is trouble."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Where `wenming relay` serves ``/metrics`` for Prometheus; left out, nowhere."""
    metrics_host: str = "127.0.0.1"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for server in self.bootstrap.split(","):
            host, colon, port = server.strip().rpartition(":")
            if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError(f"bootstrap: {server!r} is not host:port")
        if self.protocol.startswith("sasl") and (self.user is None or self.password_file is None):
            raise ValueError(
                "user, password_file: a sasl protocol needs WENMING_KAFKA_USER and _PASSWORD_FILE"
            )
        return self

    def brokers(self) -> Brokers:
        """The cluster and the topic; INVALID_REQUEST for a file that cannot be read."""
        needs_password = self.password_file is not None and self.protocol.startswith("sasl")
        password = _password_of("Kafka", self.password_file) if needs_password else None
        try:
            ca_file = None if self.ca_file is None else str(self.ca_file)
            login = login_of(self.protocol, self.sasl_mechanism, self.user, password, ca_file)
        except OSError as error:
            problem = f"settings: ca_file: {self.ca_file} cannot be read ({type(error).__name__})"
            raise InvalidRequestError(problem=problem) from None
        return Brokers(self.bootstrap, self.topic, self.partitions, self.replication, login)


class WorkerSettings(BaseSettings):
    """What `wenming work` is told besides Kafka (environment: ``WENMING_WORKER_*``). It needs no ledger's database."""

    model_config = SettingsConfigDict(env_prefix="WENMING_WORKER_", extra="forbid", frozen=True)

    store: str
    """Where the figures are kept: a database of their own."""
    store_password_file: Path | None = None
    """The file that holds the password of a store on PostgreSQL, where ``store`` itself has none."""
    ledger: UUID | None = None
    """Whose figures they are: with it, the store is made if there is none."""

    @model_validator(mode="after")
    def _with_its_password(self) -> Self:
        _require_url("store", self.store)
        object.__setattr__(self, "store", _with_password("store", self.store, self.store_password_file))
        return self


class ClickHouseSettings(BaseSettings):
    """How `wenming verify --against` gets into ClickHouse (environment: ``WENMING_CLICKHOUSE_*``)."""

    model_config = SettingsConfigDict(env_prefix="WENMING_CLICKHOUSE_", extra="forbid", frozen=True)

    password_file: Path | None = None
    """The file whose first line is the user's password; left out, the user has none."""

    def password(self) -> str:
        """INVALID_REQUEST for a file that cannot be read."""
        return "" if self.password_file is None else _password_of("ClickHouse", self.password_file)


def _require_url(name: str, text: str) -> None:
    try:
        make_url(text or "sqlite://")
    except ArgumentError:
        raise ValueError(f"{name}: not a database URL such as sqlite:///ledger.db") from None


def _with_password(name: str, text: str, file: Path | None) -> str:
    """The URL with the password that its file holds.

    Not libpq's ``passfile``: that ignores, with a warning, a file that others may read, and a secret that Docker lays
    into a container keeps the host's owner and mode.
    """
    url = make_url(text or "sqlite://")
    if file is None or url.get_backend_name() != "postgresql" or url.password is not None:
        return text
    password = _password_in(f"{name}_password_file", file)
    return url.set(password=password).render_as_string(hide_password=False)


def _password_in(setting: str, file: Path) -> str:
    """The one line of a file; ValueError names setting and file, and never what is in it."""
    try:
        password = file.read_text("utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{setting}: {file} cannot be read ({type(error).__name__})") from None
    if not password or "\n" in password:
        raise ValueError(f"{setting}: {file} must hold one line, the password")
    return password


def _password_of(whose: str, file: Path | None) -> str:
    """`_password_in`, for whoever asks later than settings are read. INVALID_REQUEST."""
    assert file is not None
    try:
        return _password_in(f"password_file of {whose}", file)
    except ValueError as error:
        raise InvalidRequestError(problem=f"settings: {error}") from None


def read_settings(**given: object) -> Settings:
    """The environment, overruled by what was given; INVALID_REQUEST says which setting is wrong."""
    return _read(Settings, given)


def read_witness_settings(**given: object) -> WitnessSettings:
    """`read_settings`, for a witness."""
    return _read(WitnessSettings, given)


def read_kafka_settings(**given: object) -> KafkaSettings:
    """`read_settings`, for Kafka."""
    return _read(KafkaSettings, given)


def read_worker_settings(**given: object) -> WorkerSettings:
    """`read_settings`, for a worker."""
    return _read(WorkerSettings, given)


def read_clickhouse_settings(**given: object) -> ClickHouseSettings:
    """`read_settings`, for ClickHouse."""
    return _read(ClickHouseSettings, given)


def _read(kind: type[T], given: Mapping[str, object]) -> T:
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        # Not str(error): that would repeat what was given, passwords too.
        problem = "; ".join(
            ": ".join([*map(str, one["loc"]), one["msg"]]) for one in error.errors(include_input=False)
        )
        raise InvalidRequestError(problem=f"settings: {problem}") from None
