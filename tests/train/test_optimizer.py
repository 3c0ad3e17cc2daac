"""Which learning rate a parameter has."""

from __future__ import annotations

import pytest
import torch

from codi2.errors import ConfigError
from codi2.train.config import TrainConfig, options_of
from codi2.train.optimizer import optimizer_of
from codi2.train.parts.llm import LLMOptions

TRAINED = {
    "input_projection.weight": torch.nn.Parameter(torch.zeros(2, 2)),
    "lora.weight": torch.nn.Parameter(torch.zeros(2, 2)),
}


def config(rates: dict[str, float]) -> TrainConfig:
    return TrainConfig(part="llm", steps=1, batch_size=1, learning_rate=0.5, rates=rates)


def test_a_rate_is_that_of_the_parameters_it_names():
    groups = optimizer_of(TRAINED, config({"input_projection": 2.0}), torch.device("cpu")).param_groups
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert [rates[parameter] for parameter in TRAINED.values()] == [1.0, 0.5]


def test_a_rate_that_names_nothing_is_refused():
    with pytest.raises(ConfigError, match="rates has 'enter'"):
        optimizer_of(TRAINED, config({"enter": 2.0}), torch.device("cpu"))


def test_a_value_that_an_option_does_not_have_is_named() -> None:
    options = {"model": "debug", "trained": "projection"}
    wrong = TrainConfig(part="llm", steps=1, batch_size=1, learning_rate=0.5, options=options)
    with pytest.raises(ConfigError, match=r"trained of llm is 'projection'; expected 'language' or 'projections'"):
        options_of(LLMOptions, wrong)
