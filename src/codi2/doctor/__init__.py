"""Checks of a model: its components, whether they are on this machine, their sizes, and whether they fit together."""
