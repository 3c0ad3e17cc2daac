"""`codi2 serve --ray N`: the same application as N replicas of Ray Serve, on one machine or a cluster.

Every replica has its own model, engine and queue. All share one store of sessions and keys (on a cluster: a folder that
all nodes can read). A replica that did not play a conversation's last round reads it from the store.
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
    """Starts the replicas and serves until a signal stops it.

    Args:
        folder: of the store, see `application.open_store`.
        placement: of each replica's model; on `cuda` every replica has a GPU of its own.
        address: of a Ray cluster; None: one is started on this machine.
        settings: of `application.application`.
    Raises:
        MissingDependencyError: Ray Serve is not installed.
        ConfigError: the cluster does not answer, or has fewer GPUs than replicas.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # the default is 5 s
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise MissingDependencyError("replicas need Ray Serve: pip install 'codi2[serve,ray]'") from error
    # a local Ray may not find the GPUs that PyTorch finds
    resources: dict[str, Any] = {} if address else {"num_gpus": count_gpus()}
    options = {} if address else deployment_options(replicas, placement, resources["num_gpus"])
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, include_dashboard=False, **resources)
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


def count_gpus() -> int:
    """The number of this machine's GPUs that PyTorch can use."""
    import torch

    return torch.cuda.device_count()


def deployment_options(replicas: int, placement: Placement, gpus: float) -> dict[str, Any]:
    """The options of Ray's deployment.

    A replica on `cuda` gets one GPU and sees no other one. On the CPU it gets none; Ray may still show it GPUs, and the
    placement keeps the model off them.

    Args:
        gpus: the number of GPUs.
    Raises:
        ConfigError: there are fewer GPUs than replicas, or the placement names one GPU for all replicas.
    """
    gpus_each = int(placement.device.startswith("cuda"))
    if placement.device.startswith("cuda:"):
        raise ConfigError(f"the device is {placement.device!r}, but each replica has a GPU of its own; use cuda")
    if gpus_each * replicas > gpus:
        raise ConfigError(
            f"{replicas} replicas need {replicas} GPUs, and there are {gpus:g}; ask for fewer replicas, or use the "
            "device cpu"
        )
    return {
        "num_replicas": replicas,
        "max_ongoing_requests": 256,
        "graceful_shutdown_timeout_s": 30,
        "ray_actor_options": {"num_gpus": gpus_each},
    }
