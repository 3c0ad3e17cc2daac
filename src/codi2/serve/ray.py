"""`codi2 serve --ray N`: the same application as N replicas of Ray Serve, on one machine or a cluster.

Every replica has a model, an engine and a queue of its own. Sessions and keys are in the store that all share (on a
cluster: a folder that all nodes see); a replica that did not play a conversation's last round reads it from there.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from codi2.errors import ConfigError, MissingDependencyError


def run_replicas(
    replicas: int, host: str, port: int, folder: Path | None, address: str | None = None, **settings: Any
) -> None:
    """Starts the replicas and serves until it is told to stop.

    Args:
        folder: of the store, see `run.open_store`.
        address: of a Ray cluster; None: one is started here.
        settings: of `run.application`.
    Raises:
        MissingDependencyError: Ray Serve is not installed. ConfigError: the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # a busy machine takes more than 5 s
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise MissingDependencyError("replicas need Ray Serve: pip install 'codi2[serve,ray]'") from error
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    except ConnectionError as error:
        raise ConfigError(f"no Ray cluster answers at {address}: start one, or leave the address out") from error

    from codi2.serve.run import application, open_store

    def build() -> Any:
        """A replica's application."""
        return application(open_store(folder), **settings)[0]

    serve.start(http_options={"host": host, "port": port})
    made = serve.deployment(num_replicas=replicas, max_ongoing_requests=256, graceful_shutdown_timeout_s=30)
    serve.run(made(serve.ingress(build)()).bind(), name="codi2", route_prefix="/")
    print(f"Serving at http://{host}:{port}", flush=True)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        pass
    finally:
        serve.shutdown()
        ray.shutdown()
