"""A model at its published size without its weights: its parts, tensors without numbers, what a GPU must hold."""
