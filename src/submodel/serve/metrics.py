"""What the server counts, for Prometheus. Labels are known names only, so that clients cannot add series."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Meters:
    """One server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.answers = Counter("submodel_answers", "Answers by path and status", ["path", "status"], registry=registry)
        self.tokens = Counter("submodel_tokens", "Tokens by model and kind", ["model", "kind"], registry=registry)
        self.cached = Counter(
            "submodel_cached_tokens", "Prompt tokens taken from earlier prompts", ["model"], registry=registry
        )
        self.routed = Counter(
            "submodel_routed", "Decisions by model and signal", ["model", "signal"], registry=registry
        )
        self.first_token = Histogram(
            "submodel_first_token_seconds",
            "From the request's start in its model to its first token",
            ["model"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.per_token = Histogram(
            "submodel_token_seconds",
            "Between tokens, the mean of an answer",
            ["model"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.requests = Gauge("submodel_requests", "Requests that are answered or wait", registry=registry)
        self.resident = Gauge("submodel_resident_bytes", "Weights and caches in memory", ["model"], registry=registry)
        self.loads = Gauge("submodel_loads", "Models loaded so far", registry=registry)
        self.evictions = Gauge("submodel_evictions", "Models evicted so far", registry=registry)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
