"""One reader per source: `read(root)` yields the `RawItem`s of the unpacked package under `root`."""
