"""Presets and the JSON form of a config."""

from __future__ import annotations

import json

import pytest

from codi2.config import PRESETS, CoDi2Config, preset
from codi2.errors import ConfigError


@pytest.mark.parametrize("name", list(PRESETS))
def test_json_gives_the_config_back(name):
    assert CoDi2Config.from_json(preset(name).to_json()) == preset(name)


def test_faults_are_named():
    def mended(change):
        data = json.loads(preset("debug").to_json())
        change(data)
        return json.dumps(data)

    with pytest.raises(ConfigError, match=r"llm\.lora_rang"):
        CoDi2Config.from_json(mended(lambda data: data["llm"].update(lora_rang=3)))
    with pytest.raises(ConfigError, match=r"decoders\.image\.num_inference_steps"):
        CoDi2Config.from_json(mended(lambda data: data["decoders"]["image"].update(num_inference_steps="many")))
    with pytest.raises(ConfigError, match=r"heads\.feature_dim"):
        CoDi2Config.from_json(mended(lambda data: data["heads"].pop("feature_dim")))
    with pytest.raises(ConfigError, match=r"num_slots\['audio'\] is 9"):
        CoDi2Config.from_json(mended(lambda data: data["heads"]["num_slots"].update(audio=9)))
    with pytest.raises(ConfigError, match="reads_words"):
        CoDi2Config.from_json(mended(lambda data: data["encoder"]["num_features"].pop("phrase")))
    with pytest.raises(ConfigError, match=r"joint\.modalities has 'depth'"):
        CoDi2Config.from_json(mended(lambda data: data["joint"].update(modalities=["audio", "depth"])))
    with pytest.raises(ConfigError, match=r"joint\.lead\['audio'\] is -1"):
        CoDi2Config.from_json(mended(lambda data: data["joint"].update(lead={"audio": -1})))
    with pytest.raises(ConfigError, match="not a model config"):
        CoDi2Config.from_json("{")


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(ConfigError, match="debug, tiny, paper"):
        preset("huge")
