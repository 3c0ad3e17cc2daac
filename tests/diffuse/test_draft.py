"""The draft: linear in what it is made of, chosen by feature and timestep."""

from __future__ import annotations

import torch

from codi2.diffuse.draft import Draft

SHAPE, DIM, LABELS = (3, 5, 4), 6, 8


def inputs(n: int) -> tuple[torch.Tensor, ...]:
    latents, source = torch.randn(2, n, *SHAPE).unbind(0)
    return latents, source, torch.randint(0, 1000, (n,)), torch.randn(n, LABELS), torch.randn(n, DIM)


def test_it_starts_as_nothing_and_learns_to_keep_and_to_paint() -> None:
    torch.manual_seed(0)
    draft = Draft(SHAPE, DIM, LABELS, width=16)
    latents, source, t, labels, appearance = inputs(4)
    assert not draft(latents, source, t, labels, appearance).any()
    painted = (appearance @ torch.randn(DIM, source[0].numel())).view_as(source)
    optimizer = torch.optim.Adam(draft.parameters(), lr=0.01)
    for _ in range(400):
        loss = (draft(torch.randn_like(source), source, t, labels, appearance) - source - painted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_it_is_linear_in_maps_and_appearance() -> None:
    torch.manual_seed(0)
    draft = Draft(SHAPE, DIM, LABELS, width=16)
    for parameter in draft.parameters():
        torch.nn.init.normal_(parameter)
    latents, source, t, labels, appearance = inputs(2)
    once = draft(latents, source, t, labels, appearance)
    assert torch.allclose(2 * once, draft(2 * latents, 2 * source, t, labels, 2 * appearance), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(once, draft(latents, source, (t + 300) % 1000, labels, appearance))
    assert not draft(latents * 0, source * 0, t, labels, appearance * 0).any()
