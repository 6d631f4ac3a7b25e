"""What a smaller vocabulary loses: the fast way against the definition, in every family; orders and ladders."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from submodel.base.tokenizer_model import UNIGRAM, TokenizerModel, tokenizer_model
from submodel.prune.vocabulary import choose
from submodel.prune.vocabulary.choose import Curve, Point, ladder, worth_measuring
from submodel.prune.vocabulary.expected import expected_uses
from submodel.prune.vocabulary.loss import Ladder, outside, plain_loss, window_losses
from submodel.prune.vocabulary.needed import needed
from submodel.prune.vocabulary.order import cut_order, head_order
from tests import tiny, vocabularies

ROWS = 1800  # more than any of the tokenizers has tokens: the head is padded
SETTINGS = {**tiny.FAMILIES, **tiny.MIXTURES}


def model_of(family: str, rows: int = ROWS, **more: Any) -> Any:
    """A random model of a family with many rows."""
    settings = {**SETTINGS[family], **more}
    if family == "gemma3_text":
        settings = {**settings, "num_hidden_layers": 4}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=rows, **settings)
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # so that tokens differ in their probability
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


def rules_and_counts(name: str) -> tuple[TokenizerModel, set[int], np.ndarray, torch.Tensor]:
    """A tokenizer's rules, what is always kept, counts of the corpus, and a window of it."""
    tokenizer = vocabularies.fast(name)
    rules = tokenizer_model(tokenizer, name)
    always = needed(tokenizer, rules, [], ROWS)
    ids = [t for text in vocabularies.corpus()[:30] for t in tokenizer(text, add_special_tokens=False)["input_ids"]]
    window = torch.tensor(tokenizer("def f(x):\n    return self.tokenizer(x, y)[0] # 日 é")["input_ids"][:24])
    return rules, always, np.bincount(ids, minlength=ROWS).astype(float), window


@torch.inference_mode()
@pytest.mark.parametrize("family", SETTINGS)
@pytest.mark.parametrize("said_again", [False, True])
def test_the_fast_way_is_the_definition(family: str, said_again: bool):
    name = {"gemma": "gemma", "llama": "llama2", "mistral": "mistral", "opt": "unigram"}.get(family, "qwen")
    rules, always, counts, window = rules_and_counts(name)
    window = torch.cat([window, window[-12:]])  # what is said again
    model = model_of(family)
    sizes = ladder(head_order(rules, counts, always), always, ROWS, said_again)
    sizes = Ladder(sizes.rank, sizes.sizes[:2] + sizes.sizes[-2:], said_again)
    loss = window_losses(model, window, rules, [sizes])
    for size in range(len(sizes.sizes)):
        slow, spelled = plain_loss(model, window, rules, sizes, size)
        assert loss.kept[0][size] == pytest.approx(slow, rel=1e-4)
        assert loss.outside[0][size] == spelled
    assert loss.outside[0][0] > loss.outside[0][-1] == 0
    full = torch.nn.functional.cross_entropy(model(window[None]).logits[0, :-1], window[1:], reduction="sum")
    assert loss.full == pytest.approx(float(full), rel=1e-4)
    assert loss.kept[0][-1] < loss.full, "rows without a token take no probability any more"


@torch.inference_mode()
def test_several_ladders_at_once_are_each_alone():
    rules, always, counts, window = rules_and_counts("smollm")
    model = model_of("llama")
    closed = rules.with_parts(always)
    ladders = [
        ladder(head_order(rules, counts, always), always, ROWS, True),
        ladder(cut_order(rules, counts, always), closed, ROWS, False),
    ]
    together = window_losses(model, window, rules, ladders)
    for place, one in enumerate(ladders):
        alone = window_losses(model, window, rules, [one])
        np.testing.assert_allclose(alone.kept[0], together.kept[place], rtol=1e-5)
        np.testing.assert_array_equal(alone.outside[0], together.outside[place])
        share = outside(window[None].numpy(), one)
        np.testing.assert_allclose(share, together.outside[place] / (len(window) - 1))


@pytest.mark.parametrize("name", vocabularies.TOKENIZERS)
def test_orders_hold_every_token_once_and_cuts_are_closed(name: str):
    rules, always, counts, _ = rules_and_counts(name)
    tokens = {token for token in rules.tokens if token < ROWS}
    head = head_order(rules, counts, always).tolist()
    assert len(head) == len(set(head)) and set(head) == tokens - always
    closed = rules.with_parts(always)
    cut = cut_order(rules, counts, always).tolist()
    stays = always if rules.kind == UNIGRAM else closed
    assert len(cut) == len(set(cut)) and set(cut) == tokens - stays
    kept = set(closed)
    for token in cut:
        kept.add(token)
        assert rules.kind == UNIGRAM or kept.issuperset(rules.parts(token)), rules.tokens[token]
    assert head == head_order(rules, counts, always).tolist(), "another order the second time"


def test_the_next_to_go_costs_least():
    """Against trying every one: of the tokens that are there, the pieces that text needs grow by the fewest."""
    rules, always, counts, _ = rules_and_counts("gpt2")
    chance = random.Random(0)
    kept = set(chance.sample(sorted(set(rules.tokens) - always), 40)) | {t for t in chance.sample(range(1300), 20)}
    small = np.where(np.isin(np.arange(ROWS), [*kept, *always]), counts, 0)

    def pieces(there: set[int]) -> float:
        return sum(small[t] * len(rules.spelled(t, there.__contains__)) for t in np.flatnonzero(small).tolist())

    order = [token for token in head_order(rules, small, always).tolist() if small[token]]
    there = {*order, *always}
    for token in reversed(order):
        costs = {other: pieces(there - {other}) for other in there - always}
        assert costs[token] == pytest.approx(min(costs.values()))
        there.remove(token)


def test_a_ladder_and_what_is_worth_measuring():
    rules, always, counts, window = rules_and_counts("qwen")
    order = head_order(rules, counts, always)
    sizes = ladder(order, always, ROWS, False)
    assert sizes.sizes[0] == len(always) and sizes.sizes[-1] == len(rules.tokens)
    assert all(b / a < 1.25 for a, b in zip(sizes.sizes[1:], sizes.sizes[2:], strict=False))
    measured = worth_measuring(sizes, window[None].numpy())
    assert 1 <= len(measured.sizes) < len(sizes.sizes) and measured.sizes[-1] == sizes.sizes[-1]
    nothing_else = ladder(np.array([], dtype=np.int64), always, ROWS, False)
    assert nothing_else.sizes == (len(always),)


def test_the_fewest_within_a_bound():
    points = [Point(n, loss, 0.0, 0.0) for n, loss in ((10, 0.2), (20, 0.004), (30, 0.01), (40, 0.003), (50, 0.0))]
    curve = Curve(tuple(points))
    assert [curve.fewest(bound).tokens for bound in (0.005, 0.01, 0.5, 1e-9)] == [40, 20, 10, 50]
    assert curve.as_dicts()[1] == {"tokens": 20, "loss": 0.004, "error": 0.0, "outside": 0.0}


def test_curves_are_ratios_of_sums_with_their_error():
    rules, always, counts, window = rules_and_counts("qwen")
    model = model_of("llama")
    sizes = ladder(head_order(rules, counts, always), always, ROWS, True)
    windows = torch.stack([window, window.flip(0), window.roll(5)])
    losses = choose.measure(model, windows, rules, [sizes], lambda tokens: None)
    curve = choose.curve(sizes, losses, 0, windows.shape[1] - 1)
    full, kept = (np.array([getattr(loss, f) for loss in losses]) for f in ("full", "kept"))
    assert [p.loss for p in curve.points] == pytest.approx((kept[:, 0].sum(0) / full.sum() - 1).tolist())
    assert all(p.error >= 0 for p in curve.points) and curve.points[0].loss > curve.points[-1].loss


@torch.inference_mode()
def test_what_the_model_expects():
    model = model_of("llama")
    windows = torch.randint(ROWS, (3, 40), generator=torch.Generator().manual_seed(0))
    seen: list[int] = []
    expected = expected_uses(model, windows, seen.append)
    plain = model(windows).logits.softmax(-1).double().mean((0, 1)).numpy()
    np.testing.assert_allclose(expected, plain, rtol=1e-4)
    assert expected.sum() == pytest.approx(1) and seen == [40, 40, 40]
