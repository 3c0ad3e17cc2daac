"""What a preset is made of, whether it is there, how big it is, and whether its parts fit together."""
