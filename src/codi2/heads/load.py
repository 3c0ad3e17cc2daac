"""The prior from a checkpoint folder, at once or with the first medium of a reply."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from codi2.config import CoDi2Config
from codi2.errors import WeightsError
from codi2.tensors import OnDemand

if TYPE_CHECKING:  # diffusers comes with it
    from codi2.heads.prior import Prior


def load_prior(config: CoDi2Config, width: int, folder: Path | None) -> Prior | None:
    """The prior in `folder`, or a small one with random weights; None: the config has none.

    Args:
        width: W of the language model.
    Raises:
        WeightsError: it is missing, damaged, or of another model.
    """
    if config.heads.prior is None:
        return None
    from codi2.heads.prior import Prior, random_prior

    dim, slots = config.heads.feature_dim, max(config.encoder.num_features.values())
    if folder is None:
        return random_prior(dim, width, slots)
    from codi2.weight_files import load_part

    prior: Prior = load_part(Prior, folder / "prior")
    sizes = prior.config
    if (sizes["dim"], sizes["state_dim"]) != (dim, width) or sizes["num_slots"] < slots:
        raise WeightsError(
            f"the prior in {folder} is for features of width {sizes['dim']}, states of {sizes['state_dim']} and "
            f"{sizes['num_slots']} slots, but the model has {dim}, {width} and {slots}; use the prior of this model"
        )
    return prior


def prior_on_demand(config: CoDi2Config, width: int, folder: Path, device: str) -> OnDemand[Prior] | None:
    """The prior on `device`, loaded with the first reply that holds media; see `load_prior`."""

    def load(_: str) -> Prior:
        from torch import nn

        prior = load_prior(config, width, folder)
        assert prior is not None
        return nn.Module.to(prior, device)

    return None if config.heads.prior is None else OnDemand(["prior"], load)
