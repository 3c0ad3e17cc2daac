"""Diffusion decoders: features to media (section 3.2), one contract for every modality."""
