"""Packed weights: formats, the linear layer that reads them, many sub-models over one base, directories of them."""
