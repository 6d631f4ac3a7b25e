"""Masks moved by gradients of the whole model."""
