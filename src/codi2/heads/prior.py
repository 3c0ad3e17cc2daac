"""The prior samples the features of an item; regression would give the mean of all features that fit.

It is a small transformer trained by flow matching (arXiv:2209.03003), similar to DALL-E 2's prior of embeddings
(arXiv:2204.06125) and MAR's head for tokens (arXiv:2406.11838). It reads the language model's hidden states before the
slots and the features of the conversation's items, so it can copy, change and combine these. For example, a pair of
items shows an edit, and the difference of the pair is to be applied to the next item. The estimate is a sum of the
items of the same group of modalities and of the noisy features with predicted signed weights, plus a predicted term.
The weight of the noisy features lets the estimate approach them as their noise vanishes (as the skip connection of
arXiv:2206.00364); without it, samples shrink towards the mean.

Letters: B samples, M items, T features of an item, K features to sample, D their width, W width of the language model,
H width of the transformer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from codi2.prompt.layout import MODALITIES

SALT = 0x5EED  # makes the noise of the prior differ from that of a decoder with the same seed
LEAST_SIGMA = 0.3  # noise level below which the weight of an error no longer grows
NUM_MODALITIES = len(MODALITIES)
FREQUENCIES = 128  # width of the sinusoidal encoding of sigma


@dataclass(frozen=True)
class Context:
    """The condition on which the features of B items are sampled."""

    states: Tensor  # [B, K, W], the language model's hidden states before each slot
    modality: Tensor  # int64 [B], of the items to sample
    items: Tensor  # [B, M, T, D], features of the conversation's items, the latest first; zeros: absent
    item_modality: Tensor  # int64 [B, M]

    def repeat(self, times: int) -> Context:
        """The samples one after the other, `times` times."""
        values = (self.states, self.modality, self.items, self.item_modality)
        return Context(*(value.repeat(times, *[1] * (value.ndim - 1)) for value in values))

    def without_states(self) -> Context:
        """The condition of the unconditional branch: the hidden states are zero, the items stay."""
        return Context(torch.zeros_like(self.states), self.modality, self.items, self.item_modality)


class Prior(ModelMixin, ConfigMixin):
    """Noisy features [B, K, D] → an estimate of the features.

    Args:
        dim: D.
        state_dim: W.
        num_modalities: the number of modalities.
        num_slots: the most features of an item, T and K.
        num_items: the most items, M; earlier ones are not read.
        width: H.
        layers: of the transformer.
        heads: of its attention.
        groups: the group of each modality; features of items of one group can be added. (): each is a group.
        dropout: rate in training.
    """

    @register_to_config
    def __init__(
        self,
        dim: int,
        state_dim: int,
        num_modalities: int = NUM_MODALITIES,
        num_slots: int = 6,
        num_items: int = 12,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        groups: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("group_of", torch.tensor(groups or range(num_modalities)), persistent=False)
        self.item_in, self.state_in, self.noisy_in = (nn.Linear(n, width) for n in (dim, state_dim, dim))
        self.slot = nn.Parameter(torch.randn(3, num_slots, width) * 0.02)  # of items, states and noisy features
        self.age = nn.Parameter(torch.randn(num_items, width) * 0.02)
        self.modality = nn.Parameter(torch.randn(num_modalities, width) * 0.02)
        self.noise_level = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.copy_weights, self.skip_weights = nn.Linear(width, 1), nn.Linear(width, 1)
        self.output = nn.Linear(width, dim)
        for last in (self.copy_weights, self.skip_weights, self.output):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, noisy: Tensor, sigma: Tensor, context: Context) -> Tensor:
        """Noisy features [B, K, D] at noise levels `sigma` [B] in 0 … 1 → the estimate of the features [B, K, D]."""
        count, num_items = noisy.shape[1], self.config["num_items"]
        items, modalities = context.items[:, :num_items], context.item_modality[:, :num_items]
        present = items.flatten(3).abs().amax(-1) > 0  # [B, M, T]
        has_state = context.states.abs().amax(-1) > 0  # [B, K]
        item_rows = self.item_in(items) + self.slot[0, : items.shape[2]] + self.age[: items.shape[1], None]
        item_rows = (item_rows + self.modality[modalities][:, :, None]).flatten(1, 2)
        order, valid = _pack(present.flatten(1))
        item_rows = item_rows.gather(1, order[..., None].expand(-1, -1, item_rows.shape[-1]))
        state_rows = self.state_in(F.layer_norm(context.states.float(), context.states.shape[-1:]))
        state_rows = state_rows + self.slot[1, :count]
        level = self.noise_level(get_timestep_embedding(sigma * 1000, FREQUENCIES).to(noisy.dtype))
        noisy_rows = self.noisy_in(noisy) + self.slot[2, :count] + (level + self.modality[context.modality])[:, None]
        rows = torch.cat([item_rows, state_rows, noisy_rows], dim=1)
        absent = ~torch.cat([valid, has_state, torch.ones_like(has_state)], dim=1)
        for block in self.blocks:
            rows = block(rows, src_key_padding_mask=absent)
        rows = self.norm(rows)
        groups = self.group_of  # a clip's features are those of a picture, its first frame, and of its motion
        same = present & (groups[modalities] == groups[context.modality][:, None])[..., None]  # [B, M, T]
        weights = self.copy_weights(rows[:, : order.shape[1]])[..., 0]
        weights = torch.zeros_like(present.flatten(1), dtype=weights.dtype).scatter(1, order, weights)
        weights = weights.view(same.shape) * same
        combined = torch.einsum("bmt,bmtd->btd", weights, items)
        combined = F.pad(combined, (0, 0, 0, max(0, count - combined.shape[1])))[:, :count]
        last = rows[:, -count:]
        return combined + self.skip_weights(last) * noisy + self.output(last)

    def loss(self, target: Tensor, noise: Tensor, sigma: Tensor, context: Context) -> Tensor:
        """The flow matching loss per sample [B]: the squared error of the velocity, with a limited weight where sigma
        is small."""
        level = sigma.view(-1, 1, 1)
        estimate = self((1 - level) * target + level * noise, sigma, context)
        error = (estimate - target).square().flatten(1).mean(1)
        return error / sigma.clamp(min=LEAST_SIGMA).square()

    @torch.no_grad()
    def sample(self, context: Context, seeds: Sequence[int], steps: int = 8, guidance_scale: float = 1.0) -> Tensor:
        """Features [B, K, D] by `steps` of Euler's method; the sample of a seed does not depend on its batch.

        Args:
            guidance_scale: of classifier-free guidance towards the hidden states; 1 runs the conditional branch alone,
                in half of the time.
        """
        shape = (context.states.shape[1], self.config["dim"])
        noises = [torch.randn(shape, generator=torch.Generator().manual_seed(seed ^ SALT)) for seed in seeds]
        values = torch.stack(noises).to(context.states)
        guided = context if guidance_scale == 1 else _both_branches(context)
        sigmas = torch.linspace(1, 0, steps + 1).tolist()
        for sigma, following in pairwise(sigmas):
            copies = len(guided.states) // len(values)
            levels = torch.full((len(guided.states),), sigma, device=values.device)
            estimate = self(values.repeat(copies, 1, 1), levels, guided)
            if copies == 2:
                unconditional, conditional = estimate.chunk(2)
                estimate = unconditional + guidance_scale * (conditional - unconditional)
            values = values + (following - sigma) * (values - estimate) / sigma
        return values


def _pack(present: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [B, L] of the N rows with those that are `present` [B, N] first, and bool [B, L]: which are present.

    On a CPU L is the largest number of present rows of a sample, usually far below N. On a GPU L is N: counting would
    make the CPU wait.
    """
    most = int(present.sum(1).max()) if present.numel() and present.device.type == "cpu" else present.shape[1]
    order = (~present).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    return order, present.gather(1, order)


def baseline_features(context: Context, row: int, pairs: bool, groups: Tensor | None = None) -> dict[str, Tensor]:
    """Baselines without training for a sample's features [K, D], by name.

    `copy`: the last item of its group in the context, if any. `arithmetic`, where `pairs` of items before and after an
    edit precede that item: the copy plus the mean difference of the pairs.

    Args:
        groups: see `Prior`; None: each modality is a group.
    """
    present = context.items[row].abs().amax((1, 2)) > 0
    modalities, modality = context.item_modality[row], context.modality[row]
    same = present & ((modalities == modality) if groups is None else (groups[modalities] == groups[modality]))
    items = context.items[row][same][:, : context.states.shape[1]]  # the latest first
    baselines = {"copy": items[0]} if len(items) else {}
    if pairs and len(items) > 1 and len(items) % 2:
        baselines["arithmetic"] = items[0] + (items[1::2] - items[2::2]).mean(0)
    return baselines


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """[n, K, D] each → the cosine of all features of an item together [n]."""
    return F.cosine_similarity(a.flatten(1), b.flatten(1), dim=-1)


def random_prior(dim: int, state_dim: int, num_slots: int) -> Prior:
    """A small prior of random weights, the same at each call; its samples depend on all its inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = Prior(dim, state_dim, NUM_MODALITIES, num_slots, width=16, layers=1, heads=2)
        for last in (prior.copy_weights, prior.skip_weights, prior.output):
            nn.init.normal_(last.weight, std=0.3)
    return prior.eval().requires_grad_(False)


def _both_branches(context: Context) -> Context:
    """The contexts of the unconditional branch, followed by those of the conditional one."""
    twice, unconditional = context.repeat(2), context.without_states()
    return Context(torch.cat([unconditional.states, context.states]), twice.modality, twice.items, twice.item_modality)


def sample_noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels [count] for training: logit-normal, with a median of 0.82.

    The context matters where noise hides the features; where there is little noise, the noisy features are copied.
    """
    return (torch.randn(count, generator=generator) + 1.5).sigmoid()
