"""Measures of features and sounds, for training and evaluation alike."""
