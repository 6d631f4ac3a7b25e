"""Files that run inside the sandbox. They import the standard library only, and nothing here imports them."""
