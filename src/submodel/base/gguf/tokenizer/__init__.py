"""The tokenizer that a GGUF file holds: its vocabulary, how text becomes words and tokens, what ends a text."""
