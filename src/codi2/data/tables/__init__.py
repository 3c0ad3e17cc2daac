"""Training data for every row of the paper's Tables 1 to 3, made from the `tiny` corpus."""
