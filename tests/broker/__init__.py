"""A private Apache Kafka for tests: one node (KRaft), from jars of Maven (43 MB), on loopback, gone in the end."""

import base64
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from tests.jars import fetched_jars
from tests.services import ServiceMissingError, free_port

HERE = Path(__file__).parent
ACCOUNTS = {"relay": "relay-secret", "nobody": "nobody-secret"}
"""Who may log in on the SASL listener, and how. Whoever is not named in an ACL may do nothing there."""


class KafkaBroker:
    """One node that is broker and controller: started, killed as by a power failure, started again."""

    def __init__(self, jars: Path, folder: Path, *, heap: str = "512m") -> None:
        self._jars, self._folder, self._heap = jars, folder, heap
        self._ports = [free_port() for _ in range(5)]
        self.address = f"127.0.0.1:{self._ports[0]}"
        """Everybody may do everything here."""
        self.sasl_address = f"127.0.0.1:{self._ports[1]}"
        """Only `ACCOUNTS` (SASL_PLAINTEXT, mechanism PLAIN), and only what an ACL allows them."""
        self.proxied_address, self.behind_proxy = (f"127.0.0.1:{port}" for port in self._ports[3:])
        """Clients of the first are sent there again; a test may put something between it and the second, where the
        broker listens. Everybody may do everything here."""
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "server.properties").write_text(self._properties())
        (folder / "log4j2.properties").write_text(
            "rootLogger.level=WARN\nrootLogger.appenderRef.out.ref=OUT\n"
            "appender.out.type=Console\nappender.out.name=OUT\n"
            "appender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%d %p %c %m%n\n"
        )
        sixteen = b"\0" + os.urandom(
            15
        )  # so that it never begins with "-", which would be taken for an option
        cluster = base64.urlsafe_b64encode(sixteen).decode().rstrip("=")
        tool = ("kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "--ignore-formatted")
        done = subprocess.run(
            self._java(*tool, "-c", "server.properties"), cwd=folder, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise ServiceMissingError(f"Kafka's storage could not be made: {done.stderr[-500:]}")

    def _properties(self) -> str:
        public, sasl, controller = (f"127.0.0.1:{port}" for port in self._ports[:3])
        users = " ".join(f'user_{name}="{password}"' for name, password in ACCOUNTS.items())
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": controller,
            "controller.listener.names": "CONTROLLER",
            "listeners": (
                f"PLAINTEXT://{public},SASL_PLAINTEXT://{sasl},PROXIED://{self.behind_proxy},CONTROLLER://{controller}"
            ),
            "advertised.listeners": (
                f"PLAINTEXT://{public},SASL_PLAINTEXT://{sasl},PROXIED://{self.proxied_address}"
            ),
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
                f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "false",
            "log.dirs": str(self._folder / "data"),
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            "share.coordinator.state.topic.min.isr": "1",
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())

    def _java(self, *arguments: str) -> list[str]:
        memory = ["-Xms256m", f"-Xmx{self._heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=4"]
        return [
            "java",
            *memory,
            "-Dlog4j2.configurationFile=log4j2.properties",
            "-cp",
            f"{self._jars}/*",
            *arguments,
        ]

    def start(self) -> None:
        """Answers when this returns, after whatever recovery is needed."""
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._java("kafka.Kafka", "server.properties"), stdout=log, stderr=log, cwd=self._folder
            )
        deadline = time.monotonic() + 90
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ServiceMissingError(f"Kafka failed: {self.log()[-1000:]}")
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            client = KafkaAdminClient(bootstrap_servers=self.address, bootstrap_timeout_ms=2_000)
        except (KafkaError, OSError):
            return False
        try:
            return bool(client.describe_cluster()["brokers"])
        except (KafkaError, OSError):
            return False
        finally:
            client.close()

    def log(self) -> str:
        """What the broker said."""
        return (self._folder / "log").read_text(errors="replace")

    @property
    def resident_bytes(self) -> int:
        """The memory that the running broker takes."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def stop(self) -> None:
        """As its operator would."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """It keeps its connections and says nothing, until `thaw`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def kafka_jars() -> Path:
    """The folder of Kafka's jars."""
    return fetched_jars("kafka", HERE / "pom.xml", instead=" (or set WENMING_TEST_KAFKA)")


@contextmanager
def private_broker() -> Iterator[KafkaBroker]:
    """A broker of one's own, running; gone in the end."""
    jars = kafka_jars()
    folder = Path(tempfile.mkdtemp(prefix="wenming-kafka-"))
    try:
        broker = KafkaBroker(jars, folder)
        broker.start()
        try:
            yield broker
        finally:
            broker.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
