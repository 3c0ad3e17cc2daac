"""The draft: a sum of its parts, whose shares are chosen by feature, timestep and what is to change."""

from __future__ import annotations

import torch

from codi2.diffuse.draft import Draft

SHAPE, DIM, LABELS = (3, 5, 4), 6, 8


def inputs(n: int) -> tuple[torch.Tensor, ...]:
    latents, source = torch.randn(2, n, *SHAPE).unbind(0)
    return latents, source, torch.randint(0, 1000, (n,)), torch.randn(n, LABELS), torch.randn(n, DIM)


def test_it_starts_as_a_copy_and_learns_to_keep_and_to_paint() -> None:
    torch.manual_seed(0)
    draft = Draft(SHAPE, DIM, LABELS, width=16)
    latents, source, t, labels, appearance = inputs(4)
    assert torch.equal(draft(latents, source, t, labels, appearance), source)
    assert not draft(latents, torch.zeros_like(source), t, labels, appearance).any()
    painted = (appearance @ torch.randn(DIM, source[0].numel())).view_as(source)
    optimizer = torch.optim.Adam(draft.parameters(), lr=0.01)
    for _ in range(400):
        loss = (draft(torch.randn_like(source), source, t, labels, appearance) - source - painted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_a_clip_has_the_draft_of_each_of_its_frames() -> None:
    draft = Draft((4, 8, 8), DIM, 2 * DIM)
    for parameter in draft.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    latents, source = torch.randn(2, 2, 4, 3, 8, 8)
    labels, appearance, t = torch.randn(2, 2 * DIM), torch.randn(2, DIM), torch.tensor([999, 500])
    whole = draft(latents, source, t, labels, appearance)
    for frame in range(3):
        alone = draft(latents[:, :, frame], source[:, :, frame], t, labels, appearance)
        assert torch.allclose(whole[:, :, frame], alone, atol=1e-5)


def test_a_source_keeps_what_the_paint_cannot_show() -> None:
    torch.manual_seed(0)
    draft = Draft(SHAPE, DIM, LABELS, width=16)
    basis = torch.linalg.qr(torch.randn(60, DIM))[0]  # columns of unit length, at right angles
    with torch.no_grad():
        draft.paint.weight.copy_(basis)
        draft.see.weight.copy_(torch.eye(DIM))
        draft.see.bias.zero_()
        draft.gains.bias[2 * SHAPE[0] :] = torch.eye(SHAPE[0]).flatten()  # the source as it is
        draft.erase.bias.fill_(1)
    latents, source, t, labels, appearance = inputs(2)
    seen = draft.seen(source)
    assert torch.allclose(seen, source.flatten(1) @ basis, atol=1e-5)
    assert torch.allclose(draft(latents, source, t, labels, seen), source, atol=1e-5)
    changed = draft(latents, source, t, labels, appearance)
    assert torch.allclose(changed, source + ((appearance - seen) @ basis.T).view_as(source), atol=1e-5)


def test_feature_timestep_and_change_choose() -> None:
    torch.manual_seed(0)
    draft = Draft(SHAPE, DIM, LABELS, width=16)
    for parameter in draft.parameters():
        torch.nn.init.normal_(parameter)
    latents, source, t, labels, appearance = inputs(2)
    once = draft(latents, source, t, labels, appearance)
    assert not torch.allclose(once, draft(latents, source, (t + 300) % 1000, labels, appearance))
    assert not torch.allclose(once, draft(latents, source, t, labels + 1, appearance))
    seen = draft.seen(source)
    hidden = draft(latents, source, t, labels, seen) + draft(latents, source, t, labels, 2 * appearance - seen)
    assert not torch.allclose(2 * once, hidden, rtol=1e-3)  # linear, were the change not looked at
    assert not draft(latents * 0, source * 0, t, labels, appearance * 0).any()
