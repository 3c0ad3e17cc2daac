"""The multimodal language model of section 3: the language model between its projections.

B: samples, L: positions, N: items, T: features of an item, S: slots, P: predicted slots, M: text labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codi2.config import HeadsConfig
from codi2.heads.projection import Projection
from codi2.llm.backbone import Backbone
from codi2.llm.splice import splice
from codi2.prompt.layout import Batch

OUTPUT_RMS = 0.1  # of predicted features at initialisation: near zero, the mean of features


@dataclass(frozen=True)
class TeacherForced:
    """Predictions of a teacher-forced pass, with their targets."""

    prediction: Tensor  # [P, D], c_MLLM
    target: Tensor  # [P, D], C_x(x)
    item: Tensor  # int64 [P], index in Batch.items
    logits: Tensor  # [M, V]
    labels: Tensor  # int64 [M]


class MLLM(nn.Module):
    """Reads text and features, predicts text and features."""

    def __init__(self, backbone: Backbone, config: HeadsConfig) -> None:
        super().__init__()
        self.backbone = backbone
        width, dim, hidden = backbone.width, config.feature_dim, config.hidden
        outputs = {modality: config.groups[modality] for modality in config.num_slots}
        self.input_projection = Projection(config.groups, dim, hidden, width, backbone.row_rms)
        self.output_projection = Projection(outputs, width, hidden, dim, OUTPUT_RMS)
        self.config = config

    def rows(self, batch: Batch, features: Tensor) -> Tensor:
        """Input rows [B, L, W]: embedded tokens, with the projected features in the slots.

        `features` float32 [N, T, D] of all items of the batch in order, zero beyond an item's own.
        """
        values = self.input_projection(features[batch.slot_item, batch.slot_number], batch.slot_modality)
        return splice(self.backbone.embed(batch.ids), values, batch.slot_sample, batch.slot_position)

    def predict(self, hidden: Tensor, modality: Tensor) -> Tensor:
        """Features float32 [P, D] from the hidden states [P, W] before their slots; `modality` int64 [P]."""
        # the states of a language model come at any scale
        return self.output_projection(F.layer_norm(hidden.float(), hidden.shape[-1:]), modality)

    def forward(self, batch: Batch, features: Tensor, fed: Tensor | None = None) -> TeacherForced:
        """One teacher-forced pass over whole conversations, padded on the right.

        `features` [N, T, D] are the targets; they are also the inputs of the slots, unless `fed` [N, T, D] replaces
        them. The state at the position before a slot predicts the slot's feature, the state before a label its token.
        The scores of the vocabulary, a fifth of the cost, are computed at labels only.
        """
        fed = features if fed is None else fed
        hidden = self.backbone(self.rows(batch, fed), batch.mask)
        predicted = batch.predicted
        sample, before = batch.slot_sample[predicted], batch.slot_position[predicted] - 1
        item, number, modality = (x[predicted] for x in (batch.slot_item, batch.slot_number, batch.slot_modality))
        prediction = self.predict(hidden[sample, before], modality)
        text_sample, text_position = batch.label_sample, batch.label_position
        return TeacherForced(
            prediction=prediction,
            target=features[item, number],
            item=item,
            logits=self.backbone.logits(hidden[text_sample, text_position - 1]),
            labels=batch.labels[text_sample, text_position],
        )


def stack_features(features: list[Tensor], dim: int) -> Tensor:
    """Features [T_n, D] of each item to one [N, T, D], zero beyond an item's own; N may be 0."""
    if not features:
        return torch.zeros(0, 1, dim)
    return nn.utils.rnn.pad_sequence(features, batch_first=True)
