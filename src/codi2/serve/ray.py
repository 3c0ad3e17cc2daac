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
from codi2.placement import Placement


def run_replicas(
    replicas: int,
    host: str,
    port: int,
    folder: Path | None,
    placement: Placement,
    address: str | None = None,
    **settings: Any,
) -> None:
    """Starts the replicas and serves until it is told to stop.

    Args:
        folder: of the store, see `application.open_store`.
        placement: of each replica's model; on `cuda` every replica has a GPU of its own.
        address: of a Ray cluster; None: one is started here.
        settings: of `application.application`.
    Raises:
        MissingDependencyError: Ray Serve is not installed.
        ConfigError: the cluster does not answer, or has fewer GPUs than replicas.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # a busy machine takes more than 5 s
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise MissingDependencyError("replicas need Ray Serve: pip install 'codi2[serve,ray]'") from error
    # a Ray that is started here may not find the GPUs that PyTorch finds
    here: dict[str, Any] = {} if address else {"num_gpus": gpus_here()}
    options = {} if address else deployment_options(replicas, placement, here["num_gpus"])
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, include_dashboard=False, **here)
    except ConnectionError as error:
        raise ConfigError(f"no Ray cluster answers at {address}: start one, or leave the address out") from error
    options = options or deployment_options(replicas, placement, ray.cluster_resources().get("GPU", 0))

    from codi2.serve.application import application, open_store

    def build() -> Any:
        """A replica's application."""
        return application(open_store(folder), placement=placement, **settings)[0]

    serve.start(http_options={"host": host, "port": port})
    serve.run(serve.deployment(**options)(serve.ingress(build)()).bind(), name="codi2", route_prefix="/")
    print(f"Serving at http://{host}:{port}", flush=True)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        pass
    finally:
        serve.shutdown()
        ray.shutdown()


def gpus_here() -> int:
    """GPUs of this machine that PyTorch can use."""
    import torch

    return torch.cuda.device_count()


def deployment_options(replicas: int, placement: Placement, gpus: float) -> dict[str, Any]:
    """What Ray is asked for.

    A replica on `cuda` asks for one GPU, and sees no other one. On the CPU it asks for none: Ray may show it GPUs all
    the same, and the placement keeps the model off them.

    Args:
        gpus: how many there are.
    Raises:
        ConfigError: there are fewer than replicas, or the placement names one for all.
    """
    each = int(placement.device.startswith("cuda"))
    if placement.device.startswith("cuda:"):
        raise ConfigError(f"The device is {placement.device!r}, but each replica has a GPU of its own; use cuda.")
    if each * replicas > gpus:
        raise ConfigError(
            f"{replicas} replicas need {replicas} GPUs, and there are {gpus:g}; ask for fewer replicas, or use the "
            "device cpu."
        )
    return {
        "num_replicas": replicas,
        "max_ongoing_requests": 256,
        "graceful_shutdown_timeout_s": 30,
        "ray_actor_options": {"num_gpus": each},
    }
