"""What OpenAI's API looks like: request bodies, prompts, answers."""
