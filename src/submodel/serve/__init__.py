"""An OpenAI-compatible server that gives every request to the right sub-model of a store. Needs the extra `serve`."""
