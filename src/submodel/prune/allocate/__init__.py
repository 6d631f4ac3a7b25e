"""Where the sparsity goes."""
