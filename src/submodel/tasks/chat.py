"""A question as the tokens of a user's turn in a model's own chat template."""

from submodel.errors import SubmodelError
from submodel.runtime import Loaded


def refuse_without_template(loaded: Loaded) -> None:
    """Raises SubmodelError for a model whose tokenizer has no chat template."""
    if not getattr(loaded.tokenizer, "chat_template", None):
        raise SubmodelError(f"{loaded.reference}: its tokenizer has no chat template: leave out --chat")


def user_turn(loaded: Loaded, text: str) -> list[int]:
    """Token ids of a conversation that begins with a text of the user's, ready for the answer."""
    turn = [{"role": "user", "content": text}]
    return loaded.tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"]
