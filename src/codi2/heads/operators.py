"""What examples show, found by trying: affine maps of the appearance token, each known by what it does.

The token is a linear statistic of a picture or a sound (`encode.appearance`). So many a change is one affine map of it,
the same for everything: night, a turn by 45 degrees, one thing more in a row, an echo. The maps are fitted in closed
form on training items (`train.parts.operators`). Which of them a prompt shows can be tried: it takes every item to the
one that follows, in pairs or all along. Which of them words ask for, the language model's state says. The prediction is
the last item under the map, as far as the state trusts it, and else what the rest of the head predicts.

P: predictions, N: items that can be looked at, E: operators, D: joint space, W: LLM width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from codi2.heads.projection import Memory

SLOT = 1  # of the appearance token
SHARPNESS = 20.0  # of the choice among operators, by the mean square that each leaves unexplained
CERTAIN = 0.02  # closest to none or all that a share of what was shown counts as explained
TIMID = -3.0  # logit of the share that a state gives to the operators at the start where nothing was shown


class Operators(nn.Module):
    """Fresh ones are identities, which explain nothing.

    Args:
        counts: name of a group of modalities → how many operators it has.
        groups: the names in the order of `Projection.maps`.
    """

    def __init__(self, counts: Mapping[str, int], groups: Sequence[str], dim: int, width: int) -> None:
        super().__init__()
        self.groups = list(groups)
        self.maps = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(e, dim + 1, dim), requires_grad=False) for name, e in counts.items()}
        )
        """What each adds to a token with a one behind it [E, D + 1, D]. Fitted, not trained."""
        self.asked = nn.ModuleDict({name: _silent(width, e) for name, e in counts.items()})
        # in steps to each second item from the end (analogies have their examples there), and in the others
        self.trust = _silent(width, 2, (1.0, 0.0))
        # where something was shown, and where not
        self.share = nn.ModuleDict({name: _silent(width, 2, (0.0, TIMID)) for name in counts})
        self.certain = nn.ParameterDict({name: nn.Parameter(torch.ones(())) for name in counts})

    def forward(
        self,
        found: Tensor,
        hidden: Tensor,
        group: Tensor,
        number: Tensor,
        memory: Memory,
        item_group: Tensor,
        visible: Tensor,
    ) -> Tensor:
        """What the rest of the head found [P, D] → the prediction [P, D].

        `hidden` [P, W] are normalised states; `group`, `number` int64 [P] name the slots, `item_group` int64 [N] the
        items; `visible` bool [P, N] says which items came before each slot.
        """
        if not len(memory.sample):
            return found
        for name, maps in self.maps.items():
            g = self.groups.index(name)
            (rows,) = ((group == g) & (number == SLOT)).nonzero(as_tuple=True)
            seen = visible[rows] & (item_group == g) & memory.features[:, SLOT].any(-1)
            kept = seen.any(-1)
            rows, seen = rows[kept], seen[kept]
            made, share = self._applied(name, maps, hidden[rows], memory, seen)
            found = found.index_put((rows,), torch.lerp(found[rows], made, share))
        return found

    def _applied(self, name: str, maps: Tensor, hidden: Tensor, memory: Memory, seen: Tensor) -> tuple[Tensor, Tensor]:
        """The last item that each slot has seen [P, N] under the chosen operator [P, D], and its share of the
        prediction [P, 1]."""
        tokens = memory.features[:, SLOT]
        before, follows = self._before(memory.sample, seen.any(0))
        left, whole = _unexplained(maps, tokens, before, follows)
        later = seen.flip(-1).cumsum(-1).flip(-1) - seen.long()  # seen items behind each
        trust = torch.sigmoid(self.trust(hidden))
        weight = torch.where(later % 2 == 1, trust[:, :1], trust[:, 1:]) * (seen & follows)
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-6)
        error, shown = weight @ left, (weight @ whole)[:, None]
        chosen = (self.asked[name](hidden) - SHARPNESS * error).softmax(-1)
        explained = 1 - error.min(1, keepdim=True).values / shown.clamp(min=1e-3)
        by_showing, by_asking = self.share[name](hidden).split(1, dim=-1)
        by_showing = by_showing + self.certain[name] * torch.logit(explained.clamp(CERTAIN, 1 - CERTAIN))
        share = torch.sigmoid(torch.where(shown > 0, by_showing, by_asking))
        last = tokens[(seen & (later == 0)).float().argmax(-1)]
        changed = torch.einsum("pi,eid->ped", _with_one(last), maps)
        return last + torch.einsum("pe,ped->pd", chosen, changed), share

    @staticmethod
    def _before(sample: Tensor, concerned: Tensor) -> tuple[Tensor, Tensor]:
        """For each item [N] the concerned one before it in its conversation, and whether there is one."""
        at = torch.arange(len(sample), device=sample.device)
        earlier = (sample[:, None] == sample) & (at[:, None] > at) & concerned & concerned[:, None]
        return (earlier * (at + 1)).amax(-1).sub(1).clamp(min=0), earlier.any(-1)


def _unexplained(maps: Tensor, tokens: Tensor, before: Tensor, follows: Tensor) -> tuple[Tensor, Tensor]:
    """Of the step to each token [N, D] from the one before: the mean square that each operator leaves [N, E], and that
    of the whole step [N]; zeros where nothing is before."""
    left, whole = tokens.new_zeros(len(tokens), len(maps)), tokens.new_zeros(len(tokens))
    (rows,) = follows.nonzero(as_tuple=True)
    if len(rows):
        start = tokens[before[rows]]
        step = tokens[rows] - start
        made = torch.einsum("ni,eid->ned", _with_one(start), maps)
        left = left.index_put((rows,), (step[:, None] - made).square().mean(-1))
        whole = whole.index_put((rows,), step.square().mean(-1))
    return left, whole


def _with_one(tokens: Tensor) -> Tensor:
    return F.pad(tokens, (0, 1), value=1.0)


def _silent(width: int, out: int, bias: Sequence[float] = ()) -> nn.Linear:
    """A layer that says the same of every state at first."""
    layer = nn.Linear(width, out)
    nn.init.zeros_(layer.weight)
    layer.bias.data = torch.tensor(bias) if bias else torch.zeros(out)
    return layer
