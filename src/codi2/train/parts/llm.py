"""The language model: LoRA, the rows of the new tokens and the projections, on cached features (sections 3.2, B.2).

Phases of text, image, audio and video alternate step by step, as in B.2. In the last part of the run the diffusion loss
of the frozen decoders is added; its gradient reaches the LoRA weights through the regressed feature.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from codi2.checkpoint import load_language, load_one_decoder, locate, save_language
from codi2.config import LANGUAGE
from codi2.data import cache
from codi2.data.tasks import TaskSampler
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.load import TRAINED, has_network, load_trained, save_decoder, trained_modules
from codi2.errors import ConfigError
from codi2.heads.loss import codi2_loss
from codi2.hub import write_atomic
from codi2.llm.backbone import load_backbone
from codi2.llm.mllm import MLLM, stack_features
from codi2.prompt.layout import MODALITIES, Batch, collate, layout_for
from codi2.tensors import device_of, to_device
from codi2.train.assemble import located_parts
from codi2.train.config import TrainConfig, options_of
from codi2.train.contract import Recipe
from codi2.train.drawn import DrawnExamples
from codi2.train.examples import ExampleSet, TrainingExample, check_held_out, encodings_for, read_stores
from codi2.train.parts.diffusion_loss import diffusion_loss, for_training, save_memory
from codi2.train.parts.draw import noised_features
from codi2.train.parts.drift import drift, kept_texts
from codi2.train.parts.language_batch import LanguageBatch
from codi2.train.parts.language_drawing import Drawing
from codi2.train.place import placement_of, training_device
from codi2.train.shares import WHOLE, Share
from codi2.weight_files import write_provenance

VALIDATED, MOST_VALIDATED = 16, 384  # held-out examples: of a batch, and at most in all
DRAWN_VALIDATED = 192  # held-out examples of drawn tasks


@dataclass(frozen=True)
class LLMOptions:
    data: dict[str, float] = field(default_factory=dict)  # data set → share of the examples
    tasks: dict[str, float] = field(default_factory=dict)  # or: family of tasks that are drawn on the fly → share
    held_out: dict[str, float] = field(default_factory=dict)  # data set for validation → share
    phases: dict[str, float] = field(default_factory=dict)  # phase → share of the steps; empty: all mixed
    trained: Literal["language", "projections"] = "language"  # projections: these alone, without L_t
    diffusion_share: float = 0.2  # last share of the run that has L_DM; 0: none
    diffusion_items: int = 4  # answers per step on which L_DM is computed, over all processes
    decoders: dict[str, str] = field(default_factory=dict)  # modality → export of the part `published` or `captions`
    decoder_heads: bool = False  # whether L_DM also trains the heads of published decoders (B.2)
    lookahead: int = 32  # steps that exchange examples by length, so that batches have little padding
    kept_texts: int = 0  # plain texts per step on which the model should predict as without its adapters
    gradient_checkpointing: bool = False  # less memory, more work
    model: str = "tiny"  # preset or folder: its encoder, its language model, and the decoders of L_DM
    features: str | Sequence[str] = ""  # stores of `codi2 data encode`; empty: those of the data sets
    parts: dict[str, str] = field(default_factory=dict)  # subfolder of the model → export; replaces a folder


class LLMRecipe(Recipe):
    model: nn.ModuleDict
    divides = True

    def __init__(self, config: TrainConfig, options: LLMOptions | None = None) -> None:
        """`options` replaces those of the config: see `finetune`."""
        self.config = config
        self.options = options = options or options_of(LLMOptions, config)
        self.placement = replace(placement_of(config), device=str(training_device(config)))
        base, self.folder = located_parts(options.model, options.parts) if options.parts else locate(options.model)
        heads = replace(base.heads, prior=None)  # a prior is trained after this run, on its hidden states
        self.codi2_config = replace(base, heads=heads)
        self.examples, held_out = self._data()
        torch.manual_seed(config.seed)
        self.mllm = MLLM(load_backbone(base.llm, self.placement), heads)
        if options.gradient_checkpointing:
            self.mllm.backbone.checkpoint_gradients()
        self.layout = layout_for(self.codi2_config, self.mllm.backbone.tokenizer)
        self._held_out = held_out
        self.kept = kept_texts(self.examples.encodings.encoder, self.layout) if options.kept_texts else []
        self.decoders = self._decoders(self.folder) if options.diffusion_share else {}
        self._take_parts()

    @property
    def block(self) -> int:
        """Number of steps that are drawn together, by one process."""
        return self.options.lookahead

    def _take_parts(self) -> None:
        """Sets the trained modules, and the modules that take turns on the device."""
        self.swapped_modules = {m: for_training(decoder) for m, decoder in self.decoders.items()}
        self.divisible_counts = {"options.diffusion_items": self.options.diffusion_items} if self.decoders else {}
        if self.options.trained == "projections":
            self.mllm.backbone.requires_grad_(False)
        self.model = nn.ModuleDict({"mllm": self.mllm})
        if self.options.decoder_heads:
            heads_of = {m: nn.ModuleList(trained_modules(decoder)) for m, decoder in self.decoders.items()}
            self.model["decoders"] = nn.ModuleDict(heads_of).requires_grad_(True)

    def _data(self) -> tuple[ExampleSet | DrawnExamples, ExampleSet | DrawnExamples]:
        """The examples for training and for validation. Raises ConfigError: one is not named."""
        options, config = self.options, self.config
        if options.tasks:
            return self._drawn_data()
        check_held_out(config.part, options.held_out)
        encodings = encodings_for(self.codi2_config, self.folder)
        read_stores(encodings, self.codi2_config, options)
        examples = ExampleSet(options.data, encodings, config.batch_size, options.phases or None, config.seed)
        return examples, ExampleSet(options.held_out, encodings, VALIDATED, None, 1)

    def _drawn_data(self) -> tuple[DrawnExamples, DrawnExamples]:
        """Tasks on items of the training and the validation split.

        Raises ConfigError: data sets are named too, or a family is unknown.
        """
        options, config = self.options, self.config
        if options.data or options.held_out or options.phases:
            raise ConfigError(
                "[options] has both tasks, which are drawn from the corpus of tiny, and data, held_out or phases; "
                "leave one of them out"
            )
        encodings = encodings_for(self.codi2_config, self.folder)
        training, validation = (TaskSampler(cache.corpus(), (split,)) for split in ("train", "val"))
        examples = DrawnExamples(training, encodings, config.batch_size, options.tasks, config.seed)
        return examples, DrawnExamples(validation, encodings, VALIDATED, options.tasks, 1, DRAWN_VALIDATED)

    @cached_property
    def held_out(self) -> dict[str, list[TrainingExample]]:
        return held_out_by_task(self._held_out)

    def _decoders(self, folder: Path | None) -> dict[str, Decoder]:
        config = self.codi2_config
        decoders = {m: load_one_decoder(m, config, folder and folder / m) for m in config.decoders}
        for modality, export in self.options.decoders.items():
            if modality not in decoders:
                raise ConfigError(
                    f"options.decoders has {modality!r}, but {config.name} has decoders of {', '.join(decoders)}; name "
                    "one of these"
                )
            load_trained(decoders[modality], Path(export) / TRAINED)
        return {m: save_memory(d) for m, d in decoders.items()} if self.options.gradient_checkpointing else decoders

    @cached_property
    def drawing(self) -> Drawing:
        data = self.examples, self.layout, self.mllm.backbone.pad_id
        return Drawing(self.config, self.options, self.codi2_config, *data, self.decoders, self.kept)

    def batch(self, step: int, share: Share = WHOLE) -> LanguageBatch:
        batch = self.drawing.draw(step, share)
        return batch if get_worker_info() else self.finish(batch)

    def finish(self, batch: LanguageBatch) -> LanguageBatch:
        """Encodes the items of `unseen`, on the device of the training process."""
        if not batch.unseen:
            return batch
        encoded = self.examples.encodings.encode_on(device_of(self.mllm.input_projection), list(batch.unseen.values()))
        for item, value in zip(batch.unseen, encoded, strict=True):
            batch.features[item, : len(value)] = value
        batch.unseen = {}
        return batch

    def sources(self, step: int) -> list[str]:
        """The records of a step, for reports."""
        return self.drawing.sources(step)

    def _collate(self, examples: Sequence[TrainingExample]) -> tuple[Batch, Tensor]:
        batch = collate([self.drawing.lay_out(example) for example in examples], self.mllm.backbone.pad_id)
        features = [value for example in examples for value in example.features]
        return batch, stack_features(features, self.codi2_config.heads.feature_dim)

    def _fed(self, batch: LanguageBatch) -> Tensor:
        """The inputs of the slots: features of answers are noised, since in generation they are predictions."""
        return noised_features(batch.features, batch.amount, batch.noise)

    def losses(self, model: nn.Module, batch: LanguageBatch) -> dict[str, Tensor]:
        taught = self.mllm(batch.batch, batch.features, self._fed(batch))
        dtype = getattr(torch, self.placement.dtype)
        diffusion = [
            diffusion_loss(self.decoders[modality], denoised, taught.prediction, dtype)
            for modality, denoised in batch.denoised.items()
        ]
        losses = codi2_loss(
            self.codi2_config.heads,
            taught.prediction,
            taught.target,
            taught.logits,
            taught.labels,
            torch.cat(diffusion) if diffusion else None,
            batch.held,
        )
        if self.options.trained == "projections":
            losses["loss"] = losses["loss"] - losses["text"]
        if batch.drift is not None:
            losses["drift"] = drift(self.mllm, batch.drift)
            losses["loss"] = losses["loss"] + losses["drift"]
        return losses

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Cosines to the true features, and text loss, on held-out records by task.

        Tasks that answer with several modalities have no figure.
        """
        figures: dict[str, float] = {}
        device = device_of(self.mllm.input_projection)
        for task, examples in self.held_out.items():
            batch, features = to_device(self._collate(examples), device)
            if batch.slot_predicted.any():
                kinds = batch.item_modality[batch.slot_item[batch.slot_predicted]].unique()
                if len(kinds) > 1:
                    continue
                items, predicted = own_predictions(self.mllm, batch, features)
                count = self.codi2_config.heads.num_slots[MODALITIES[int(kinds)]]
                cosines = torch.cosine_similarity(predicted, features[items], dim=-1).mean(0).tolist()
                names = ["joint", *(f"feature_{number}" for number in range(1, count))]
                figures |= {f"{task}/{name}": cosine for name, cosine in zip(names, cosines[:count], strict=True)}
            else:
                taught = self.mllm(batch, features)
                figures[f"{task}/loss"] = float(nn.functional.cross_entropy(taught.logits.float(), taught.labels))
        return figures

    def provenance(self) -> dict[str, Any]:
        return {"data_sha256": self.examples.provenance()}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        if self.folder is not None:  # a whole model: copy the parts that this run does not train
            for part in self.folder.iterdir():
                if part.is_dir() and part.name != "adapter":
                    shutil.copytree(part, folder / part.name, dirs_exist_ok=True)
        save_language(self.mllm, folder)
        for modality, export in self.options.decoders.items():
            shutil.copytree(export, folder / modality, dirs_exist_ok=True)
        trained_decoders = self.decoders if self.options.decoder_heads else {}
        for modality, decoder in trained_decoders.items():
            save_decoder(decoder, folder / modality, with_network=has_network(folder / modality))
        trained = (LANGUAGE, *trained_decoders, *self.options.decoders)
        config = self.codi2_config.with_trained(*trained)
        if self.folder is None:  # exports of `debug` and `paper` hold only the parts that this run trains
            config = replace(config, untrained=tuple(m for m in config.decoders if m not in trained))
        write_atomic(folder / "config.json", config.to_json().encode())
        write_provenance(folder / "adapter", provenance)

    def restore(self, folder: Path) -> None:
        """Decoders that the folder lacks, as after a run without `decoder_heads`, are not changed."""
        load_language(self.mllm, folder)
        for modality, decoder in self.decoders.items() if self.options.decoder_heads else ():
            if (folder / modality).is_dir():
                load_trained(decoder, folder / modality / TRAINED)


def own_predictions(mllm: MLLM, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor]:
    """Features of the n items that the assistant answers with, each slot fed with the model's own, as in generation.

    `features` [N, T, D] are those of all items of the batch; those of the answers are not used. Returns the indices of
    the items [n] and the predictions [n, K, D].
    """
    fed, numbers = features.clone(), batch.slot_number[batch.slot_predicted]
    for number in range(int(numbers.max()) + 1):
        taught = mllm(batch, features, fed)
        rows = numbers == number
        fed[taught.item[rows], number] = taught.prediction[rows]
    items = taught.item.unique_consecutive()
    return items, fed[items]


def held_out_by_task(examples: ExampleSet | DrawnExamples) -> dict[str, list[TrainingExample]]:
    """The first examples of one pass over held-out records, at most MOST_VALIDATED, by task."""
    by_task: dict[str, list[TrainingExample]] = {}
    for step in range(min(-(-examples.total // VALIDATED), MOST_VALIDATED // VALIDATED)):
        for example in examples.batch(step):
            by_task.setdefault(example.record.task, []).append(example)
    return dict(sorted(by_task.items()))


def build(config: TrainConfig) -> LLMRecipe:
    return LLMRecipe(config)
