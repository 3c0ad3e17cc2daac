"""What runs the loop on whatever `accelerate launch` was told: processes, devices, precision and trackers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from codi2.errors import ConfigError
from codi2.train.config import TrainConfig
from codi2.train.trackers import check_trackers


def accelerator_for(config: TrainConfig, out: Path) -> Any:
    """What runs the loop on whatever `accelerate launch` was told.

    Raises ConfigError: there is no such tracker; sharding was asked for, and is not what would be done.
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
    except ValueError as error:  # as where a GPU lacks the precision
        raise ConfigError(f"accelerate cannot start as it was launched: {error}; change its options") from error
    asked, kind = os.environ.get("ACCELERATE_USE_FSDP", "") == "true", accelerator.distributed_type
    if asked and kind is not DistributedType.FSDP:
        raise ConfigError(
            f"FSDP was asked for, but accelerate would train as {kind.value} on {accelerator.device.type}: "
            "it shards on accelerators only; launch without --use_fsdp here"
        )
    if kind is DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ConfigError("the first version of FSDP was asked for; launch with --fsdp_version 2")
    if kind is DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        if settings.get("zero_optimization", {}).get("stage") == 3:
            raise ConfigError("DeepSpeed's stage 3 cuts up weights where checkpoints do not look; use FSDP2 or stage 2")
        settings["train_micro_batch_size_per_gpu"] = config.batch_size // accelerator.num_processes // config.accumulate
    accelerator.init_trackers("curves")
    return accelerator
