"""`python -m codi2` is `codi2`."""

from codi2.cli import main

main()
