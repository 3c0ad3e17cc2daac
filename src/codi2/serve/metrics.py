"""The figures of `/metrics`, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from codi2.serve.server import Server


def prometheus(server: Server) -> bytes:
    """The figures of this moment, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(server))
    return generate_latest(registry)


class _Collector:
    def __init__(self, server: Server) -> None:
        self.server = server

    def collect(self) -> Iterable[Metric]:
        engine, stats = self.server.engine, self.server.engine.stats
        # lists of the counts: the engine's threads change them meanwhile
        yield GaugeMetricFamily("codi2_waiting", "Jobs that wait.", engine.waiting)
        yield GaugeMetricFamily("codi2_running", "Jobs of the batch that runs.", engine.running)
        jobs = CounterMetricFamily("codi2_jobs", "Jobs by outcome.", labels=["outcome"])
        for outcome, count in list(stats.outcomes.items()):
            jobs.add_metric([outcome], count)
        yield jobs
        seconds = CounterMetricFamily("codi2_work_seconds", "Seconds of work by stage.", labels=["stage"])
        for stage, value in list(stats.seconds.items()):
            seconds.add_metric([stage], value)
        yield seconds
        batches = CounterMetricFamily("codi2_batches", "Batches by stage and size.", labels=["stage", "size"])
        for (stage, size), count in list(stats.batches.items()):
            batches.add_metric([stage, str(size)], count)
        yield batches
        requests = CounterMetricFamily("codi2_requests", "Requests by route and status.", labels=["route", "status"])
        for (route, status), count in self.server.requests.items():
            requests.add_metric([route, str(status)], count)
        yield requests
