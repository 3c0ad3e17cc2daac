"""What a step learns from: shares, epochs, exact resumption, ranks and workers that share nothing."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from codi2.data.build import Settings, build
from codi2.data.mixture import Mixture, MixturePart
from codi2.data.sets import load_report
from codi2.data.shards import open_shards
from codi2.errors import ConfigError, DataError

from .builders import official


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three finished data sets: pictures, sounds, and text about pictures."""
    folder = tmp_path_factory.mktemp("sets")
    sources = {
        "laion": official.laion_tars(folder / "a", shards=20, each=6),
        "audioset": official.audioset(folder / "b", count=60),
        "mimic-it": official.mimic_it(folder / "c"),
    }
    for name, source in sources.items():
        build(Settings(name, str(source), str(folder / name)), max_bad=0.1)
    return {name: folder / name for name in sources}


def test_shares_are_the_weights(sets: dict[str, Path]):
    weights = {"laion": 5.0, "audioset": 3.0, "mimic-it": 2.0}
    mixture = Mixture([MixturePart(sets[name], weight) for name, weight in weights.items()], batch_size=10)
    counts = Counter(path.parts[-3] for step in range(1000) for path, _ in mixture.addresses(step))
    assert counts.total() == 10_000
    for name, weight in weights.items():
        assert counts[name] / 10_000 == pytest.approx(weight / 10, rel=0.02)
    # and nowhere in between far off
    early = Counter(path.parts[-3] for step in range(250) for path, _ in mixture.addresses(step))
    assert early["mimic-it"] / 2500 == pytest.approx(0.2, rel=0.1)


def test_a_step_has_one_phase_and_phases_their_share(sets: dict[str, Path]):
    phases = {"text": 0.5, "image": 0.3, "audio": 0.2}
    mixture = Mixture([MixturePart(path) for path in sets.values()], batch_size=4, phases=phases)
    counts = Counter(mixture.phase(step) for step in range(10_000))
    for phase, share in phases.items():
        assert counts[phase] / 10_000 == pytest.approx(share, rel=0.02)
    for step in range(40):
        assert {record.phase for record in mixture.batch(step)} == {mixture.phase(step)}


def test_every_record_once_an_epoch_in_a_new_order(sets: dict[str, Path]):
    mixture = Mixture([MixturePart(sets["laion"])], batch_size=8)
    epochs = [[a for step in range(30 * e, 30 * e + 30) for a in mixture.addresses(step)] for e in range(2)]
    assert len(set(epochs[0])) == 240 and set(epochs[0]) == set(epochs[1]) and epochs[0] != epochs[1]
    runs = np.mean([a[0] == b[0] for a, b in zip(epochs[0], epochs[0][1:], strict=False)])
    assert runs < 0.3  # neighbours in a shard are not neighbours in a batch


def test_any_step_is_known_without_the_steps_before(sets: dict[str, Path]):
    def fresh(seed: int = 3) -> Mixture:
        return Mixture([MixturePart(path) for path in sets.values()], 6, {"text": 1, "image": 2}, seed)

    went = fresh()
    run = [went.addresses(step) for step in range(1300)]
    for step in (1299, 700, 3):
        assert fresh().addresses(step) == run[step]
    assert fresh(seed=4).addresses(700) != run[700]
    assert list(islice(fresh().steps(start=700), 3)) == run[700:703]


def test_ranks_and_workers_share_nothing_and_miss_nothing(sets: dict[str, Path]):
    from torch.utils.data import DataLoader

    mixture = Mixture([MixturePart(sets["laion"])], batch_size=8)
    whole = [record.key for step in range(5, 9) for record in mixture.batch(step)]
    seen: list[list[str]] = []
    for rank in range(2):
        steps = islice(mixture.steps(start=5, rank=rank, world_size=2), 4)
        loader = DataLoader(mixture, batch_sampler=list(steps), num_workers=2, collate_fn=list)  # type: ignore[arg-type]
        seen.append([record.key for batch in loader for record in batch])
    assert not set(seen[0]) & set(seen[1])
    assert sorted(seen[0] + seen[1]) == sorted(whole)
    assert seen[0] == [key for n, key in enumerate(whole) if n % 2 == 0]


def test_what_cannot_be_mixed(sets: dict[str, Path], tmp_path: Path):
    sources = [MixturePart(path) for path in sets.values()]
    with pytest.raises(ConfigError, match="there is no phase 'smell'; the phases are video, image, audio, text"):
        Mixture(sources, 4, {"smell": 1})
    with pytest.raises(ConfigError, match="no source has records of the phase 'video'"):
        Mixture(sources, 4, {"video": 1})
    with pytest.raises(ConfigError, match=r"weights of the sources of phase all are \[1.0, 0.0\]"):
        Mixture([sources[0], MixturePart(sets["audioset"], 0.0)], 4)
    with pytest.raises(ConfigError, match=r"smallest of the sources of phase all has the share 9\.999e-05"):
        Mixture([sources[0], MixturePart(sets["audioset"], 1e-4)], 4)
    with pytest.raises(DataError, match="is not a data set"):
        Mixture([MixturePart(tmp_path)], 4)


def test_a_copy_that_is_not_whole_is_found(sets: dict[str, Path], tmp_path: Path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(sets["audioset"], copy)
    assert all(len(shard) for shard in open_shards(copy, load_report(copy)))
    shard = copy / "shards" / "audio-000000.tar"
    shard.write_bytes(shard.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"audio-000000.tar is cut off"):
        list(open_shards(copy, load_report(copy)))
