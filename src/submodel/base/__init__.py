"""A checkpoint as a base: weights, models, arithmetic, native kernels, workers."""
