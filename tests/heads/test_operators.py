"""Operators: what examples show is found by trying, and done to what came last."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from codi2.config import DEBUG
from codi2.heads.operators import SLOT, Operators
from codi2.heads.projection import Memory, OutputProjection
from codi2.prompt.layout import MODALITIES

D, W, COUNT = 16, 8, 5
IMAGE, AUDIO = MODALITIES.index("image"), MODALITIES.index("audio")


@pytest.fixture
def operators() -> Operators:
    """Of pictures: turns of the token's space, and a shift each."""
    torch.manual_seed(0)
    made = Operators({"image": COUNT}, ["image", "audio"], D, W)
    turns = torch.stack([torch.linalg.qr(torch.randn(D, D))[0] for _ in range(COUNT)])
    made.maps["image"][:, :D] = turns - torch.eye(D)
    made.maps["image"][:, D] = torch.randn(COUNT, D) * 0.3
    return made


def under(operators: Operators, index: int, token: Tensor) -> Tensor:
    """[D] → [D]"""
    added: Tensor = torch.cat([token, torch.ones(1)]) @ operators.maps["image"][index]
    return token + added


def predicted(
    operators: Operators, tokens: list[Tensor], kinds: list[int] | None = None, state: Tensor | None = None
) -> Tensor:
    """What is made of zeros [D] behind items with these appearance tokens."""
    features = torch.zeros(len(tokens), 3, D)
    features[:, SLOT] = torch.stack(tokens)
    zeros = torch.zeros(len(tokens), dtype=torch.long)
    groups = torch.tensor(kinds or [0] * len(tokens))
    memory = Memory(torch.zeros(len(tokens), W), features, zeros, zeros)
    hidden = torch.zeros(1, W) if state is None else state[None]
    visible = torch.ones(1, len(tokens), dtype=torch.bool)
    at = torch.zeros(1, dtype=torch.long)
    return operators(torch.zeros(1, D), hidden, at, at + SLOT, memory, groups, visible)[0]


def near(ours: Tensor, truth: Tensor) -> float:
    return torch.cosine_similarity(ours, truth, dim=0).item()


@pytest.mark.parametrize("index", range(COUNT))
@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_sequence_goes_on_as_it_went(operators: Operators, index: int, length: int) -> None:
    tokens = [torch.randn(D)]
    while len(tokens) <= length:
        tokens.append(under(operators, index, tokens[-1]))
    assert near(predicted(operators, tokens[:-1]), tokens[-1]) > 0.99


@pytest.mark.parametrize("index", range(COUNT))
def test_examples_say_what_becomes_of_the_last(operators: Operators, index: int) -> None:
    """Pairs first: what follows from one pair to the next is nothing, and a state that knows it trusts pairs alone."""
    tokens = []
    for _ in range(3):
        start = torch.randn(D)
        tokens += [start, under(operators, index, start)]
    with torch.no_grad():
        operators.trust.bias.copy_(torch.tensor([4.0, -9.0]))
    assert near(predicted(operators, tokens[:-1]), tokens[-1]) > 0.99


def test_what_no_operator_explains_is_left_to_the_rest(operators: Operators) -> None:
    strange = [torch.randn(D) for _ in range(4)]
    shown = [strange[0], under(operators, 1, strange[0])]
    assert predicted(operators, strange).norm() < 0.35 * predicted(operators, shown).norm()


def test_words_ask_where_nothing_is_shown(operators: Operators) -> None:
    token, state = torch.randn(D), torch.eye(W)[3]
    assert predicted(operators, [token]).norm() < 0.1 * token.norm()
    with torch.no_grad():
        operators.asked["image"].weight[2, 3] = 20
        operators.share["image"].weight[1, 3] = 20
    assert near(predicted(operators, [token], state=state), under(operators, 2, token)) > 0.99


def test_items_of_another_kind_are_passed_over(operators: Operators) -> None:
    start = torch.randn(D)
    tokens = [start, torch.randn(D), under(operators, 4, start), torch.randn(D)]
    truth = under(operators, 4, tokens[2])
    assert near(predicted(operators, tokens, kinds=[0, 1, 0, -1]), truth) > 0.99
    assert not predicted(operators, [torch.randn(D)], kinds=[1]).any()


def test_a_head_may_have_them() -> None:
    torch.manual_seed(0)
    config = replace(DEBUG.heads, operators={"image": 2})
    leave = OutputProjection(config, W)
    plain = OutputProjection(DEBUG.heads, W)
    plain.load_state_dict({n: v for n, v in leave.state_dict().items() if not n.startswith("operators.")})
    zeros = torch.zeros(2, dtype=torch.long)
    memory = Memory(torch.randn(2, W), torch.randn(2, 3, DEBUG.heads.feature_dim), zeros, torch.tensor([IMAGE, AUDIO]))
    asked = torch.randn(4, W), torch.tensor([IMAGE, IMAGE, AUDIO, IMAGE]), torch.tensor([0, 1, 1, 2])
    visible = torch.ones(4, 2, dtype=torch.bool)
    ours, theirs = (head(*asked, memory, visible) for head in (leave, plain))
    torch.testing.assert_close(ours[[0, 2, 3]], theirs[[0, 2, 3]])
    assert not torch.equal(ours[1], theirs[1]) and not leave.operators.maps["image"].requires_grad
    ours.sum().backward()
    assert leave.operators.share["image"].bias.grad.abs().sum() > 0
    nothing = memory.first(0), visible[:, :0]
    torch.testing.assert_close(leave(*asked, *nothing), plain(*asked, *nothing))
    assert "operators.maps.image" in OutputProjection(replace(config, maps=2), W).wide  # kept in bytes
