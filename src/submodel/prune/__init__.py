"""The mathematics of pruning: scores, allocations, masks moved by gradients, fits and rounding."""
