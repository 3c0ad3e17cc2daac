"""The language model with adapter and new tokens: it reads features among words, and writes both."""
