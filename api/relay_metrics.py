"""What a relay does, for Prometheus."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ledger.relay import Relay


class RelayCollector(Collector):
    """Reads the relay's state, and how far it is behind, whenever somebody asks."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def collect(self) -> Iterator[Metric]:
        state, lag = self._relay.state, self._relay.lag()
        gauges = {
            "position": ("The last position that was published.", state.position),
            "lag_facts": ("Facts in the ledger that are not published yet.", lag.facts),
            "lag_seconds": ("Seconds since the oldest of them was recorded.", lag.seconds),
            "in_trouble": ("1 while the relay waits for brokers or database.", state.trouble is not None),
        }
        counters = {
            "facts": ("Facts published by this process.", state.published),
            "transactions": ("Transactions committed by this process.", state.transactions),
            "retries": ("Times this process had to begin anew.", state.retries),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"wenming_relay_{name}", text, value=value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"wenming_relay_{name}", text, value=value)


@contextmanager
def serving_metrics(relay: Relay, host: str, port: int | None) -> Iterator[int | None]:
    """Serve ``/metrics`` beside whatever happens inside, if there is a port (0: a free one); gives the port."""
    if port is None:
        yield None
        return
    registry = CollectorRegistry()
    server, thread = start_http_server(port, addr=host, registry=registry)
    try:
        registry.register(RelayCollector(relay))
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
