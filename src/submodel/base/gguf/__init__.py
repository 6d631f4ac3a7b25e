"""A GGUF file as a base: its header, its tensors, its model family and its tokenizer.

What the file says is obeyed or refused by name: every key of its architecture, every tensor, every tokenizer key.
"""
