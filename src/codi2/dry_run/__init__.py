"""A model at its published size without weights: its components, tensors without data, and estimates for GPUs."""
