"""Pixels and samples as the parts of a prompt hold them, made from arrays and pictures of any kind."""
