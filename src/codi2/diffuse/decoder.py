"""The diffusion decoder: regressed features → media. One class for every modality.

The codec (media ↔ latents) differs between modalities; the conditioner (features → the network's condition) differs
between presets.

Letters: B batch, K slots, D feature width, c channels, h w latent size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.config import DecoderConfig
from codi2.diffuse.codec import Codec
from codi2.diffuse.conditioner import BaseConditioner
from codi2.diffuse.process import process_of
from codi2.diffuse.sampling import DEFAULTS, Progress, SampleOptions, SamplerState, guide, sample, seeded_noise
from codi2.prompt.parts import Part

MAX_SAMPLE_WEIGHT = 5.0  # min-SNR weighting, arXiv:2303.09556
NEGATIVE_SCALE = 2.0  # least guidance with a negative prompt, which acts through guidance alone


class Decoder(nn.Module):
    """A denoising network, its conditioner, its codec and its noise schedule.

    Args:
        unet: the denoising network: (latents, timesteps, the conditioner's arguments) → an output with `sample`. Its
            input channels are the noisy latent, then the source's latent (the fidelity path of section 5.1; zeros: no
            source) if it has room for one, then the conditioner's `maps`.
        scheduler: any diffusers scheduler; its config says what the network predicts (`diffuse.process`).
        config: of the decoder; its fields of sampling are the defaults of `SampleOptions`.
        latent_shape: [c, h, w] of a medium, or [c, F, h, w]; by default the network's configured size.
    """

    def __init__(
        self,
        unet: Any,
        conditioner: BaseConditioner,
        codec: Codec,
        scheduler: Any,
        config: DecoderConfig,
        latent_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.latent_shape = latent_shape or codec.latent_shape(unet)
        self.unet, self.conditioner, self.codec = unet, conditioner, codec
        self.scheduler, self.config = scheduler, config
        self.process = process_of(scheduler)
        self.has_source_input: bool = unet.config.in_channels > unet.config.out_channels

    @property
    def modality(self) -> str:
        return self.codec.modality

    def denoise(
        self, latents: Tensor, t: Tensor, features: Tensor, noise_level: Tensor, source: Tensor, text: Tensor | None
    ) -> Tensor:
        """One call of the network on latents [B, c, h, w]; `source` [B, c, h, w] may be zeros.

        Latents of clips are [B, c, F, h, w], here and everywhere in this class.
        """
        condition = self.conditioner(features, noise_level, text)
        maps = [latents, source] if self.has_source_input else [latents]
        layout = self.conditioner.maps(features, latents)
        if layout is not None:
            maps.append(layout.to(latents))
        x = torch.cat(maps, dim=1)
        if x.ndim == 4:  # not clips, which have five axes
            x = x.contiguous(memory_format=torch.channels_last)
        # diffusers' network of clips takes class labels as the condition of its timestep
        if x.ndim == 5 and self.unet.config.get("time_cond_proj_dim"):
            condition["timestep_cond"] = condition.pop("class_labels")
        prediction: Tensor = self.unet(x, t, **condition).sample
        return prediction

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
        """`loss`, and the estimate of the sample [B, c, h, w] that follows from the network's prediction.

        Everything but the network is computed in float32, whatever the network's precision.
        """
        dtype = next(self.unet.parameters()).dtype
        latents, noise = latents.float(), noise.float()
        kind, (signal, sigma) = self.process.kind, self._levels(t, latents)
        noisy = self.noisy(latents, noise, t)
        text = None if text is None else text.to(dtype)
        prediction = self.denoise(noisy.to(dtype), t, features.to(dtype), noise_level, source.to(dtype), text).float()
        target, estimate = {
            "sample": (latents, prediction),
            "v_prediction": (signal * noise - sigma * latents, signal * noisy - sigma * prediction),
            "epsilon": (noise, (noisy - sigma * prediction) / signal.clamp(min=1e-4)),
            "flow": (noise - latents, noisy - sigma * prediction),
        }[kind]
        error = F.mse_loss(prediction, target, reduction="none").flatten(1).mean(1)
        if kind == "sample":
            # the error of the velocity that follows from the sample, with a limited weight at little noise
            error = error / sigma.flatten().square().clamp(min=1 / MAX_SAMPLE_WEIGHT)
        return error, estimate

    def generate(
        self,
        features: Tensor,
        seeds: Sequence[int],
        options: SampleOptions = DEFAULTS,
        progress: Progress | None = None,
    ) -> list[Part]:
        """Features [B, K, D] → B media."""
        return self.media(self.generate_latents(features, seeds, options, progress))

    @torch.no_grad()
    def generate_latents(
        self,
        features: Tensor,
        seeds: Sequence[int],
        options: SampleOptions = DEFAULTS,
        progress: Progress | None = None,
    ) -> Tensor:
        """Features [B, K, D] → latents [B, c, h, w]."""
        return sample(self.sampler_state(features, seeds, options), progress)

    @torch.no_grad()
    def media(self, latents: Tensor) -> list[Part]:
        """Latents [B, c, h, w] → B media."""
        return self.codec.to_parts(self.codec.decode(latents))

    @torch.no_grad()
    def sampler_state(self, features: Tensor, seeds: Sequence[int], options: SampleOptions = DEFAULTS) -> SamplerState:
        """The state of sampling latents [B, c, h, w] from features [B, K, D], before its first step.

        Args:
            seeds: one per sample; a sample does not depend on the others of its batch.
        """
        steps, scale, source_scale = self._numbers(options)
        features = self.rescaled(features).to(next(self.unet.parameters()).dtype)
        feature_noise = seeded_noise(features.shape[1:], [seed + 1 for seed in seeds], features.device, features.dtype)
        features, level = self.at_noise_level(features, feature_noise)
        noise = seeded_noise(self.latent_shape, list(seeds), features.device, features.dtype)
        source = self._source_latents(options.sources, noise)
        no_features, no_source = torch.zeros_like(features), torch.zeros_like(source)
        no_words, words = self._words(features, options.negative, options.words)
        branches = [(features, source, words)]
        guides_source = source_scale != 1 and bool(source.any())
        if scale != 1 or guides_source:
            # InstructPix2Pix's three branches: unconditional, source, source + feature; the first has the weight
            # 1 - source_scale
            branches[:0] = [(no_features, no_source, no_words)] if guides_source else []
            branches[-1:-1] = [(no_features, source, no_words)]
        all_features, all_sources, all_words = (torch.cat(inputs) for inputs in zip(*branches, strict=True))
        level = level.repeat(len(branches))

        def denoise(latents: Tensor, t: Tensor) -> Tensor:
            repeated = latents.repeat(len(branches), *[1] * (latents.ndim - 1))
            predictions = self.denoise(repeated, t, all_features, level, all_sources, all_words)
            return guide(predictions, scale, source_scale, len(branches))

        start = options.start
        start_latents = None if start is None else self.codec.encode(self.codec.to_tensor(start)).to(noise)
        return SamplerState(denoise, self.scheduler, noise, steps, start_latents, options.strength)

    def _numbers(self, options: SampleOptions) -> tuple[int, float, float]:
        """Steps, and the guidance scales towards the feature and towards the source."""
        chosen = [
            getattr(self.config, name) if (value := getattr(options, name)) is None else value
            for name in ("num_inference_steps", "guidance_scale", "source_guidance_scale")
        ]
        steps, scale, source_scale = chosen
        if options.negative is not None and options.guidance_scale is None:
            scale = max(scale, NEGATIVE_SCALE)
        return steps, scale, source_scale

    def rescaled(self, features: Tensor) -> Tensor:
        """Scales joint vectors to the norm of true ones: regression shrinks predictions towards the mean.

        Features [B, K, D] → [B, K, W], in the conditioner's width.
        """
        norm = self.config.feature_norm
        norm = self.conditioner.expected_norm() if norm is None else norm
        if norm:
            features = torch.cat([F.normalize(features[:, :1], dim=-1) * norm, features[:, 1:]], dim=1)
        return self.conditioner.mapped(features)

    def at_noise_level(self, features: Tensor, feature_noise: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, K, D] at the noise level of sampling, and that level [B].

        Training calls it too, so that the network is trained with the inputs of sampling. `feature_noise` is
        standard normal, in the shape of the features.
        """
        level = torch.full((len(features),), self.config.noise_level, device=features.device)
        return (self.conditioner.noised(features, feature_noise, level) if self.config.noise_level else features), level

    def _words(self, features: Tensor, negative: Tensor | None, words: Tensor | None) -> tuple[Tensor, Tensor]:
        """The text of the unconditional branch and of the feature's branch, [B, …], both padded to one length."""
        empty = self.conditioner.no_words
        empty = torch.zeros_like(features[:, 0]) if empty is None else empty.to(features).expand(len(features), -1, -1)
        unconditional = empty if negative is None else negative.to(features)
        conditional = unconditional if self.config.negative_in_both else empty
        conditional = conditional if words is None else words.to(features)
        if empty.ndim == 3:
            length = max(unconditional.shape[1], conditional.shape[1])
            unconditional, conditional = (
                F.pad(states, (0, 0, 0, length - states.shape[1])) for states in (unconditional, conditional)
            )
        return unconditional, conditional

    def _source_latents(self, sources: Sequence[Part | None] | None, like: Tensor) -> Tensor:
        latents = torch.zeros_like(like)
        rows = [i for i, source in enumerate(sources or ()) if source is not None and self.has_source_input]
        if sources is not None and rows:
            tensors = self.codec.to_tensor([sources[i] for i in rows])  # type: ignore[misc]
            latents[rows] = self.codec.encode_source(tensors).to(like)
        return latents


def first_frames(pictures: Decoder, features: Tensor, seeds: Sequence[int]) -> list[Part]:
    """The first frames of clips with features [B, K, D], drawn by the image decoder without the features of motion."""
    # the features of a picture are the first ones of a clip
    return pictures.generate(features[:, : pictures.conditioner.config["num_slots"]], seeds)
