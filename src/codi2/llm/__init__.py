"""The language model with its adapter and new tokens: it reads and writes text and features."""
