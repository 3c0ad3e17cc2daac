"""The language model: LoRA, the rows of the new tokens and the projections, on cached features (sections 3.2, B.2).

Phases of text, image and audio alternate step by step, as in B.2. Over the last part of the run the diffusion loss of
the frozen decoders joins in, its gradient reaching the LoRA weights through the regressed feature.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.config import preset
from codi2.data.chat import load_chats, load_prose
from codi2.data.tasks import TASKS, Example
from codi2.heads.loss import codi2_loss
from codi2.llm.mllm import MLLM
from codi2.prompt.layout import Batch, Message, TokenSequence, collate, layout_for
from codi2.train.config import TrainConfig
from codi2.train.parts.draw import numpy_at, torch_at
from codi2.train.parts.predicted import own_predictions
from codi2.train.parts.store import Store, weights_folder, world

KEPT_TOKENS = 64  # of a plain text that is kept
SLOTS = ("joint", "appearance", "manner")  # what the slots of an item hold, in order
UNSEEN = ("edit_image", "analogy_image", "concept")  # tasks that are validated on held-out families


@dataclass(frozen=True)
class LLMOptions:
    tasks: dict[str, float] = field(default_factory=dict)  # task → share of the examples
    loss: str = "paper"  # or released
    alpha: float = 1.0  # weight of the MSE
    diffusion_share: float = 0.2  # last part of the run that has L_DM; 0: none
    diffusion_items: int = 4  # items a step that L_DM is computed on
    fed_noise: float = 1.0  # most noise on the target's features when they are fed back (teacher forcing)
    lookahead: int = 8  # batches that are drawn together and sorted by length, so that little is padding
    kept_texts: int = 0  # plain texts a step on which the model is held to what it was without its adapters
    keep_weight: float = 1.0  # of that: the divergence from the base model, in nats a token
    gradient_checkpointing: bool = False  # less memory for more work
    leave: str = ""  # folder of the part `leave` that the way out starts from; empty: as it is
    weights: str = ""  # folder with encoder heads and decoders; empty: the shipped ones


class LLMRecipe:
    def __init__(self, config: TrainConfig) -> None:
        from codi2.llm.backbone import load_backbone

        self.config = config
        self.options = options = LLMOptions(**config.options)
        weights = weights_folder(options.weights)
        base = preset("tiny")
        heads = replace(base.heads, loss=options.loss, alpha=options.alpha)  # type: ignore[arg-type]
        self.codi2_config = replace(base, heads=heads)
        torch.manual_seed(config.seed)
        self.model = MLLM(load_backbone(base.llm), heads)
        if options.gradient_checkpointing:
            self.model.backbone.checkpoint_gradients()
        if options.leave:
            self._start_leave()
        self.layout = layout_for(self.codi2_config, self.model.backbone.tokenizer)
        self.store = Store(weights, heads.feature_dim)
        self.world = world(("train",), "mix", {}, load_chats())
        known, unseen = (world(splits, "test_mix", {}) for splits in (("test_rendering", "val"), ("test_family",)))
        # exemplars need several renderings of one thing, which only held-out families have; sounds are too few for that
        self.held_out = {"known": known, "unseen": replace(unseen, sounds=known.sounds)}
        self.store.learn_phrases(sorted(set().union(*(w.phrases() for w in (self.world, *self.held_out.values())))))
        self.kept = self._kept_texts() if options.kept_texts else []
        self.decoders = self._decoders(weights) if options.diffusion_share else {}
        self._pool: tuple[int, list[list[tuple[Example, TokenSequence]]]] = (-1, [])

    def _start_leave(self) -> None:
        from codi2.train.parts.leave import load_leave

        load_leave(self.model.leave, Path(self.options.leave))

    def _decoders(self, weights: Path) -> dict[str, Any]:
        from codi2.diffuse.load import load_decoder

        folders = {m: weights / m for m in ("image", "audio") if (weights / m / "unet").is_dir()}
        return {modality: load_decoder(modality, folder) for modality, folder in folders.items()}

    def _kept_texts(self) -> list[Tensor]:
        """Token ids of plain texts: prose without a template, and conversations in theirs."""
        tokenizer = self.model.backbone.tokenizer
        prose = [tokenizer(text, add_special_tokens=False).input_ids for text in load_prose()]
        chats = []
        for question, answer in self.world.chats:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            chats.append(tokenizer(text, add_special_tokens=False).input_ids)
        return [torch.tensor(ids[:KEPT_TOKENS]) for ids in (*prose, *chats)]

    def batch(self, step: int) -> tuple[list[Example], Batch, Tensor, Tensor, int]:
        block, place = divmod(step, self.options.lookahead)
        if self._pool[0] != block:
            self._pool = (block, self._draw_block(block))
        pairs = self._pool[1][place]
        batch, features = self._collate([sequence for _, sequence in pairs])
        return [example for example, _ in pairs], batch, features, self._fed(batch, features, step), step

    def _draw_block(self, block: int) -> list[list[tuple[Example, TokenSequence]]]:
        draw, size = numpy_at(self.config.seed, block), self.config.batch_size
        names = list(self.options.tasks)
        shares = np.array([self.options.tasks[name] for name in names], dtype=np.float64)
        chosen = draw.choice(len(names), size * self.options.lookahead, p=shares / shares.sum())
        examples = [TASKS[names[i]](self.world, draw) for i in chosen]
        pairs = [(example, self._lay_out(example)) for example in examples]
        pairs.sort(key=lambda pair: len(pair[1].ids))
        batches = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        return [batches[int(i)] for i in draw.permutation(len(batches))]

    def _lay_out(self, example: Example) -> TokenSequence:
        return self.layout([Message("user", example.prompt), Message("assistant", (example.answer,))])

    def _collate(self, sequences: list[TokenSequence]) -> tuple[Batch, Tensor]:
        batch = collate(sequences, self.model.backbone.pad_id)
        items: tuple[Any, ...] = batch.items  # `Ref`s and `Phrase`s
        return batch, self.store.stacked(items)

    def _fed(self, batch: Batch, features: Tensor, step: int) -> Tensor:
        """What the slots are fed: answers' features are noised, since at generation they are the model's own."""
        generator = torch_at(self.config.seed, step)
        answers = torch.zeros(len(features), dtype=torch.bool)
        answers[batch.slot_item[batch.slot_predicted]] = True
        amount = torch.rand(len(features), 1, 1, generator=generator) * self.options.fed_noise * answers[:, None, None]
        noise = torch.randn(features.shape, generator=generator)
        present = features.abs().amax(-1, keepdim=True) > 0
        return ((1 - amount**2).sqrt() * features + amount * noise) * present

    def losses(self, model: nn.Module, drawn: tuple[list[Example], Batch, Tensor, Tensor, int]) -> dict[str, Tensor]:
        examples, batch, features, fed, step = drawn
        taught = model(batch, features, fed)
        diffusion = None
        if self.decoders and step >= self.config.steps * (1 - self.options.diffusion_share):
            diffusion = self._diffusion(examples, batch, taught, step)
        heads = self.codi2_config.heads
        losses = codi2_loss(heads, taught.prediction, taught.target, taught.logits, taught.labels, diffusion)
        if self.kept:
            losses["drift"] = self._drift(step)
            losses["loss"] = losses["loss"] + self.options.keep_weight * losses["drift"]
        return losses

    def _drift(self, step: int) -> Tensor:
        """How far the model has gone from the base model on plain texts: mean divergence of a token, in nats."""
        rows = numpy_at(self.config.seed + 1, step).choice(len(self.kept), self.options.kept_texts, replace=False)
        backbone, texts = self.model.backbone, [self.kept[int(i)] for i in rows]
        ids = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=backbone.pad_id)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(text, dtype=torch.bool) for text in texts], batch_first=True)
        rows_in = backbone.embed(ids)
        with torch.no_grad(), backbone.peft.disable_adapter():
            base = backbone.logits(backbone(rows_in, mask)[mask])[:, : backbone.first_new].float().log_softmax(-1)
        ours = backbone.logits(backbone(rows_in, mask)[mask]).float().log_softmax(-1)[:, : backbone.first_new]
        return nn.functional.kl_div(ours, base, log_target=True, reduction="batchmean")

    def _diffusion(self, examples: list[Example], batch: Batch, taught: Any, step: int) -> Tensor | None:
        """L_DM of a few answers, through the frozen decoders."""
        generator, losses = torch_at(self.config.seed + 1, step), []
        for modality, decoder in self.decoders.items():
            items, predicted = taught.of(modality)
            chosen = torch.randperm(len(items), generator=generator)[: self.options.diffusion_items]
            if not len(chosen):
                continue
            targets: list[Any] = [batch.items[int(items[i])] for i in chosen]
            sources = [examples[int(batch.item_sample[items[i]])].source for i in chosen]
            latents = torch.stack([self.store.latents(ref) for ref in targets])
            source = torch.stack(
                [
                    self.store.latents(s) if s is not None and s.modality == modality else torch.zeros_like(latents[0])
                    for s in sources
                ]
            )
            t = torch.randint(decoder.scheduler.config.num_train_timesteps, (len(chosen),), generator=generator)
            noise = torch.randn(latents.shape, generator=generator)
            features = decoder.rescaled(predicted[chosen])
            losses.append(decoder.loss(latents, noise, t, features, torch.zeros_like(t), source))
        return torch.cat(losses) if losses else None

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Cosines to the true joint vector and appearance, and text loss, on held-out items by task."""
        figures: dict[str, float] = {}
        for name in self.options.tasks:
            if name in ("subject", "chat"):
                continue
            draw = np.random.default_rng(0)
            held_out = self.held_out["unseen" if name in UNSEEN else "known"]
            examples = [TASKS[name](held_out, draw) for _ in range(32)]
            batch, features = self._collate([self._lay_out(example) for example in examples])
            if batch.slot_predicted.any():
                items, predicted = own_predictions(self.model, batch, features)
                target = features[items, : predicted.shape[1]]
                cosines = torch.cosine_similarity(predicted, target, dim=-1).mean(0).tolist()
                figures |= {f"{name}/{slot}": cosine for slot, cosine in zip(SLOTS, cosines, strict=False)}
            else:
                taught = self.model(batch, features)
                figures[f"{name}/loss"] = float(nn.functional.cross_entropy(taught.logits.float(), taught.labels))
        return figures

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        import json

        from codi2 import __version__
        from codi2.checkpoint import save_language
        from codi2.hub import write_atomic

        save_language(self.model, folder)
        write_atomic(folder / "config.json", self.codi2_config.to_json().encode())
        (folder / "adapter" / "training.json").write_text(
            json.dumps({"codi2": __version__, **provenance}, indent=1) + "\n"
        )

    def restore(self, folder: Path) -> None:
        from codi2.checkpoint import load_language

        load_language(self.model, folder)


def build(config: TrainConfig) -> LLMRecipe:
    return LLMRecipe(config)
