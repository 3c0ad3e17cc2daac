"""Between features and the language model: projections, the prior, the loss (sections 3.2, 5.1)."""
