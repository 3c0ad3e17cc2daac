"""The diffusion decoder: regressed features → media. One class serves every modality.

What differs between modalities lives in the codec (media ↔ latents); what differs between presets lives in the
conditioner (features → what the network is conditioned on).

Letters: B batch, K slots, D feature width, c channels, h w latent size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.diffuse.codec import Codec
from codi2.diffuse.condition import Condition
from codi2.diffuse.draft import Draft
from codi2.diffuse.process import Discrete, process_of
from codi2.diffuse.sampling import Progress, SamplerState, guide, sample, seeded_noise
from codi2.prompt.parts import Part

MAX_SAMPLE_WEIGHT = 5.0  # min-SNR weighting, arXiv:2303.09556
NEGATIVE_SCALE = 2.0  # least guidance where a negative prompt is given: it acts through guidance alone


@dataclass(frozen=True)
class Sampling:
    """How a decoder samples when the caller does not say."""

    num_inference_steps: int = 20
    guidance_scale: float = 3.0  # towards the feature; 1 switches guidance off
    source_guidance_scale: float = 1.5  # towards the source, where one is given
    noise_level: int = 0  # of the feature's noise augmentation, 0 … 999
    feature_norm: float | None = 0.0  # joint vectors are brought to this norm; 0: as they are; None: what is expected
    negative_in_both: bool = False  # a negative prompt conditions the feature's branch too
    detail: float = 0.0  # how far from its source a place may be to get back what the codec lost of it; 0: never
    motion_scale: float = 1.0  # of a clip whose source is still, at each step
    first_frame: bool = False  # whether a clip without a source is given one, drawn by the decoder of pictures
    kept: float = 0.0  # share put back of what drawing a source by its own features loses of it


class Decoder(nn.Module):
    """A denoising network, its conditioner, its codec and its noise schedule.

    Args:
        unet: the denoising network: (latents, timesteps, the conditioner's arguments) → an output with `sample`. Its
            input channels take the noisy latent, then, where there are more than one latent's, the source's (the
            fidelity path of section 5.1; zeros: no source), then the draft.
        scheduler: any diffusers scheduler; it says what the network predicts (`diffuse.process`).
        latent_shape: [c, h, w] of a medium, or [c, F, h, w]; by default the network's own size.
        draft: what the network corrects, and sees as a third part of its input; None where it draws all by itself.
    """

    def __init__(
        self,
        unet: Any,
        conditioner: Condition,
        codec: Codec,
        scheduler: Any,
        sampling: Sampling = Sampling(),
        draft: Draft | None = None,
        latent_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.draft = draft
        self.latent_shape = latent_shape or codec.latent_shape(unet)
        self.unet, self.conditioner, self.codec = unet, conditioner, codec
        self.scheduler, self.sampling = scheduler, sampling
        self.process = process_of(scheduler)
        self.sees_source: bool = unet.config.in_channels > unet.config.out_channels

    @property
    def modality(self) -> str:
        return self.codec.modality

    def with_network(self, unet: Any, **sampling: Any) -> Decoder:
        """This decoder with another network of the same shape and other fields of `Sampling`; all else is shared."""
        other = copy.copy(self)
        other._modules = {**self._modules, "unet": unet}
        other.sampling = replace(self.sampling, **sampling)
        return other

    @property
    def diffusion(self) -> Any:
        """The `DDPMScheduler` of a discrete process."""
        assert isinstance(self.process, Discrete)
        return self.process.diffusion

    def denoise(
        self, latents: Tensor, t: Tensor, features: Tensor, noise_level: Tensor, source: Tensor, text: Tensor | None
    ) -> Tensor:
        """One call of the network on latents [B, c, h, w]; `source` [B, c, h, w] may be zeros.

        Those of clips are [B, c, F, h, w], here and everywhere in this class.
        """
        condition = self.conditioner(features, noise_level, text)
        maps = [latents, source] if self.sees_source else [latents]
        layout = self.conditioner.maps(features, latents)
        if layout is not None:
            maps.append(layout.to(latents))
        if self.draft is not None:
            appearance = features[:, 1] if features.shape[1] > 1 else torch.zeros_like(features[:, 0])
            maps.append(self.draft(latents, source, t, condition["class_labels"], appearance))
        x = torch.cat(maps, dim=1)
        if x.ndim == 4:  # clips have frames too
            x = x.contiguous(memory_format=torch.channels_last)
        # diffusers' network of clips reads class labels in the place of a condition of the timestep
        if x.ndim == 5 and self.unet.config.get("time_cond_proj_dim"):
            condition["timestep_cond"] = condition.pop("class_labels")
        prediction: Tensor = self.unet(x, t, **condition).sample
        return prediction if self.draft is None else prediction + maps[-1]

    def noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Latents [B, c, h, w] with the noise of timesteps `t` [B]."""
        signal, sigma = self._levels(t, latents)
        return signal * latents + sigma * noise

    def _levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = (x.view(-1, *[1] * (like.ndim - 1)).to(like) for x in self.process.levels(t))
        return signal, sigma

    def loss(
        self,
        latents: Tensor,
        noise: Tensor,
        t: Tensor,
        features: Tensor,
        noise_level: Tensor,
        source: Tensor,
        text: Tensor | None = None,
    ) -> Tensor:
        """L_DM of equation 1, per sample [B]. Its gradient flows through `features` [B, K, D] into the LLM."""
        return self.loss_and_estimate(latents, noise, t, features, noise_level, source, text)[0]

    def loss_and_estimate(
        self,
        latents: Tensor,
        noise: Tensor,
        t: Tensor,
        features: Tensor,
        noise_level: Tensor,
        source: Tensor,
        text: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`loss`, and the sample [B, c, h, w] that the network's prediction stands for.

        All but the network is computed in float32, whatever the network's precision.
        """
        own = next(self.unet.parameters()).dtype
        latents, noise = latents.float(), noise.float()
        kind, (signal, sigma) = self.process.kind, self._levels(t, latents)
        noisy = self.noisy(latents, noise, t)
        text = None if text is None else text.to(own)
        prediction = self.denoise(noisy.to(own), t, features.to(own), noise_level, source.to(own), text).float()
        target, estimate = {
            "sample": (latents, prediction),
            "v_prediction": (signal * noise - sigma * latents, signal * noisy - sigma * prediction),
            "epsilon": (noise, (noisy - sigma * prediction) / signal.clamp(min=1e-4)),
            "flow": (noise - latents, noisy - sigma * prediction),
        }[kind]
        error = F.mse_loss(prediction, target, reduction="none").flatten(1).mean(1)
        if kind == "sample":
            # the error of the velocity that follows from the sample, held down where there is hardly any noise
            error = error / sigma.flatten().square().clamp(min=1 / MAX_SAMPLE_WEIGHT)
        return error, estimate

    def generate(
        self, features: Tensor, seeds: Sequence[int], progress: Progress | None = None, **settings: Any
    ) -> list[Part]:
        """Features [B, K, D] → B media. `settings` are those of `state`."""
        return self.media(self.generate_latents(features, seeds, progress, **settings), settings.get("sources"))

    @torch.no_grad()
    def generate_latents(
        self, features: Tensor, seeds: Sequence[int], progress: Progress | None = None, **settings: Any
    ) -> Tensor:
        """Features [B, K, D] → latents [B, c, h, w]. `settings` are those of `state`."""
        return sample(self.sampler_state(features, seeds, **settings), progress)

    @torch.no_grad()
    def media(
        self,
        latents: Tensor,
        sources: Sequence[Part | None] | None = None,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> list[Part]:
        """Latents [B, c, h, w] that were drawn from `sources` → B media; `finish` has the codec's tensors first."""
        tensor = self._with_detail(self.codec.decode(latents), sources)
        return self.codec.to_parts(tensor if finish is None else finish(tensor))

    @torch.no_grad()
    def with_kept(
        self, latents: Tensor, sources: Sequence[Part | None], own: Tensor, seeds: Sequence[int], **settings: Any
    ) -> Tensor:
        """Latents [B, c, h, w] with `kept` of what each source loses when it is drawn by its own features [B, K, D].

        A network that edits redraws what it should have left alone, and errs there as it does on the source itself,
        where the error can be seen (so does Direct Inversion, arXiv:2310.01506). `settings` are those of `state`.
        """
        source = self._source_latents(sources, latents)
        given = source.flatten(1).any(1).view(-1, *[1] * (source.ndim - 1))
        drawn = self.generate_latents(own, seeds, sources=sources, **settings)
        return latents + self.sampling.kept * given * (source - drawn)

    @torch.no_grad()
    def sampler_state(
        self,
        features: Tensor,
        seeds: Sequence[int],
        sources: Sequence[Part | None] | None = None,
        negative: Tensor | None = None,
        words: Tensor | None = None,
        start: Sequence[Part] | None = None,
        strength: float = 1.0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        source_guidance_scale: float | None = None,
    ) -> SamplerState:
        """The way from noise to the latents [B, c, h, w] of features [B, K, D], not yet gone.

        Args:
            seeds: one per sample; a sample does not depend on the others of its batch.
            sources: the item each sample edits, or None (the fidelity path).
            negative: the negative prompt's words [B, …] as the conditioner takes them, for the unconditional branch
                (appendix B.1), or for both.
            words: a prompt's, for the feature's branch: what decoders without a language model go by.
            start: media to start from, noised as far as `strength`, a share of the schedule (see `SamplerState`).
            guidance_scale: 1 takes the feature's branch alone, in half or a third of the time.
        """
        features = self.rescaled(features).to(next(self.unet.parameters()).dtype)
        blur = seeded_noise(features.shape[1:], [seed + 1 for seed in seeds], features.device, features.dtype)
        features, level = self.at_noise_level(features, blur)
        steps = self.sampling.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = self.sampling.guidance_scale if guidance_scale is None else guidance_scale
        source_scale = self.sampling.source_guidance_scale if source_guidance_scale is None else source_guidance_scale
        if negative is not None and guidance_scale is None:
            scale = max(scale, NEGATIVE_SCALE)
        noise = seeded_noise(self.latent_shape, list(seeds), features.device, features.dtype)
        source = self._source_latents(sources, noise)
        blank, no_source = torch.zeros_like(features), torch.zeros_like(source)
        quiet, told = self._words(features, negative, words)
        if scale == 1 and (source_scale == 1 or not source.any()):
            all_features, all_sources, all_text, copies = features, source, told, 1
        elif source.any():
            # (unconditional, source, source + feature): InstructPix2Pix's three branches
            all_features, all_sources = torch.cat([blank, blank, features]), torch.cat([no_source, source, source])
            all_text, copies = torch.cat([quiet, quiet, told]), 3
        else:
            all_features, all_sources = torch.cat([blank, features]), torch.cat([source, source])
            all_text, copies = torch.cat([quiet, told]), 2
        level = level.repeat(copies)
        livelier = self._livelier(source)

        def denoise(latents: Tensor, t: Tensor) -> Tensor:
            branches = self.denoise(
                latents.repeat(copies, *[1] * (latents.ndim - 1)), t, all_features, level, all_sources, all_text
            )
            return livelier(guide(branches, scale, source_scale, copies))

        begun = None if start is None else self.codec.encode(self.codec.to_tensor(start)).to(noise)
        return SamplerState(denoise, self.scheduler, noise, steps, begun, strength)

    def _livelier(self, source: Tensor) -> Callable[[Tensor], Tensor]:
        """What makes estimates of clips whose source is still move as they should: what is foretold of a motion that
        nothing tells is the mean of all, hardly any. Sources [B, c, F, h, w]."""
        scale = self.sampling.motion_scale
        if scale == 1 or source.ndim != 5 or self.process.kind != "sample":
            return lambda estimate: estimate
        still = source.flatten(1).any(1) & ~source.diff(dim=2).flatten(1).any(1)
        by = torch.where(still, scale, 1.0).to(source).view(-1, 1, 1, 1, 1)

        def moved(estimate: Tensor) -> Tensor:
            mean = estimate.mean(2, keepdim=True)
            return mean + by * (estimate - mean)

        return moved

    def rescaled(self, features: Tensor) -> Tensor:
        """A regressed joint vector is shorter than a true one, since regression shrinks to the mean: undo that.

        Features [B, K, D] → [B, K, W], in the width that the conditioner takes.
        """
        norm = self.sampling.feature_norm
        norm = self.conditioner.expected_norm() if norm is None else norm
        if norm:
            features = torch.cat([F.normalize(features[:, :1], dim=-1) * norm, features[:, 1:]], dim=1)
        return self.conditioner.mapped(features)

    def at_noise_level(self, features: Tensor, blur: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, K, D] at the noise level that the decoder samples at, and that level [B].

        Training calls it too, so that a network learns from what it is given when it samples. `blur` is standard normal
        noise, as the features.
        """
        level = torch.full((len(features),), self.sampling.noise_level, device=features.device)
        return (self.conditioner.noised(features, blur, level) if self.sampling.noise_level else features), level

    def _words(self, features: Tensor, negative: Tensor | None, words: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the unconditional branch and the feature's are told in words, [B, …] of one length each."""
        none = self.conditioner.no_words
        none = torch.zeros_like(features[:, 0]) if none is None else none.to(features).expand(len(features), -1, -1)
        quiet = none if negative is None else negative.to(features)
        told = quiet if self.sampling.negative_in_both else none
        told = told if words is None else words.to(features)
        if none.ndim == 3:
            length = max(quiet.shape[1], told.shape[1])
            quiet, told = (F.pad(states, (0, 0, 0, length - states.shape[1])) for states in (quiet, told))
        return quiet, told

    @torch.no_grad()
    def _with_detail(self, media: Tensor, sources: Sequence[Part | None] | None) -> Tensor:
        """What the codec loses of a source is put back where the result [B, C, H, W] shows what the codec makes of it.

        The weight of a place is exp(-e / detail²), with e the squared difference there, over channels and neighbours.
        """
        rows = [i for i, source in enumerate(sources or ()) if source is not None]
        if sources is None or not rows or not self.sampling.detail or not self.sees_source:
            return media
        given = self.codec.to_tensor([sources[i] for i in rows])  # type: ignore[misc]
        copy = self.codec.decode(self.codec.encode_source(given))
        error = F.avg_pool2d((media[rows] - copy).square().mean(1, keepdim=True), 5, 1, 2, count_include_pad=False)
        mended = media.clone()
        mended[rows] += torch.exp(-error / self.sampling.detail**2) * (given - copy)
        return mended

    def _source_latents(self, sources: Sequence[Part | None] | None, like: Tensor) -> Tensor:
        latents = torch.zeros_like(like)
        rows = [i for i, source in enumerate(sources or ()) if source is not None and self.sees_source]
        if sources is not None and rows:
            given = self.codec.to_tensor([sources[i] for i in rows])  # type: ignore[misc]
            latents[rows] = self.codec.encode_source(given).to(like)
        return latents


def first_frames(pictures: Decoder, features: Tensor, seeds: Sequence[int]) -> list[Part]:
    """What a decoder of pictures draws of clips' features [B, K, D], but for what they tell of motion."""
    if pictures.draft is None:  # its features are the first ones of a clip
        return pictures.generate(features[:, : pictures.conditioner.config["num_slots"]], seeds)
    looks = features.clone()
    looks[:, 2:] = 0  # a clip's joint vector and appearance are those of its pictures
    return pictures.generate(looks, seeds)
