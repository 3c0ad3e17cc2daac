"""Changes drawn at random from the factors: of a medium, of a rule, and of what a rule is applied to."""

from __future__ import annotations

import numpy as np

from codi2.data.tables.factors import COLOURLESS, FACTORS, HELD_OUT, Look


class Changes:
    """Draws looks.

    Args:
        held_out: whether the values of `HELD_OUT` are drawn as well.
    """

    def __init__(self, held_out: bool = False) -> None:
        self.values = {
            modality: {
                factor: [v for v in values if held_out or v not in HELD_OUT] for factor, values in factors.items()
            }
            for modality, factors in FACTORS.items()
        }

    def look(
        self, modality: str, draw: np.random.Generator, count: int, without: frozenset[str] = frozenset()
    ) -> dict[str, str]:
        """`count` factors (or as many as there are) with a value each."""
        free = [factor for factor in self.values[modality] if factor not in without]
        chosen = [free[int(i)] for i in sorted(draw.permutation(len(free))[:count])]
        return _visible({factor: str(draw.choice(self.values[modality][factor])) for factor in chosen})

    def rule(self, modality: str, draw: np.random.Generator) -> dict[str, str]:
        """One to three factors: what the examples of an analogy have in common."""
        return self.look(modality, draw, int(draw.choice([1, 2, 3], p=[0.35, 0.4, 0.25])))

    def before(
        self, modality: str, draw: np.random.Generator, rule: Look, hidden: float, extra: float = 0.25
    ) -> dict[str, str]:
        """The look of a medium that the rule is then applied to.

        Args:
            hidden: chance that it already has a value of the rule, so that the example does not show it; never all.
            extra: chance of each factor that the rule leaves alone to be set.
        """
        look: dict[str, str] = {}
        for factor, values in self.values[modality].items():
            if factor in rule:
                if draw.random() < hidden:
                    look[factor] = rule[factor]
                elif draw.random() < 0.4:
                    others = [value for value in values if value != rule[factor]]
                    look |= {factor: str(draw.choice(others))} if others else {}
            elif draw.random() < extra / 2:
                look |= {factor: str(draw.choice(values))}
        if "hue" in rule and look.get("style") in COLOURLESS:
            del look["style"]
        if hidden and all(look.get(factor) == rule[factor] for factor in rule):
            del look[str(draw.choice(list(rule)))]
        return look


def _visible(look: dict[str, str]) -> dict[str, str]:
    """Without the hue of what has no colours: nobody could tell."""
    return {f: v for f, v in look.items() if f != "hue" or look.get("style") not in COLOURLESS}
