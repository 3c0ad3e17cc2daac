"""Encoders: media to features in the joint space (section 3.1)."""
