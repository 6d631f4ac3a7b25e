"""Derive specialised sub-models from one language model by pruning."""
