"""The corpus of `tiny`: fetched from packages, built once, read as one list of items."""
