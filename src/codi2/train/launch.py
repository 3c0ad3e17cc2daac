"""Makes the accelerator of a run, with the processes, devices and precision of `accelerate launch`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from codi2.errors import ConfigError
from codi2.train.config import TrainConfig
from codi2.train.trackers import check_trackers


def accelerator_for(config: TrainConfig, out: Path) -> Any:
    """The accelerator that runs the loop.

    Raises ConfigError: a tracker is unknown; accelerate cannot start, or cannot shard as requested.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, DistributedType

    check_trackers(config.trackers)
    names = config.options.get("placement", {})
    try:
        accelerator = Accelerator(
            cpu=names.get("device") == "cpu",
            gradient_accumulation_steps=config.accumulate,
            log_with=config.trackers or None,
            project_dir=str(out),
            # a batch of one modality leaves the others' projections without a gradient
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    except ValueError as error:  # for example, the GPU lacks the precision
        raise ConfigError(f"accelerate cannot start as it was launched ({error}); change its options") from error
    use_fsdp, kind = os.environ.get("ACCELERATE_USE_FSDP", "") == "true", accelerator.distributed_type
    if use_fsdp and kind is not DistributedType.FSDP:
        raise ConfigError(
            f"FSDP was requested, but accelerate would train as {kind.value} on {accelerator.device.type}, since "
            "it shards on accelerators only; launch without --use_fsdp here"
        )
    if kind is DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ConfigError("version 1 of FSDP was requested, but only version 2 works; launch with --fsdp_version 2")
    if kind is DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        if settings.get("zero_optimization", {}).get("stage") == 3:
            raise ConfigError(
                "stage 3 of DeepSpeed shards weights, which checkpoints do not support; use FSDP2 or stage 2"
            )
        settings["train_micro_batch_size_per_gpu"] = config.batch_size // accelerator.num_processes // config.accumulate
    accelerator.init_trackers("curves")
    return accelerator
