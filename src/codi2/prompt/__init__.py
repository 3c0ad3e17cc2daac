"""The interleaved prompt (section 3.1): its parts, the grammar of placeholders, its layout in tokens and slots."""
