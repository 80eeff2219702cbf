"""Direct preference optimization: a policy against a reference, without a reward model."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import logsigmoid

from phaseline.objectives.base import Losses, ReferenceKind, TokenBatch
from phaseline.objectives.preferences import (
    PreferenceObjective,
    answer_lengths,
    answer_logps,
    losses_of_pairs,
)


class DirectPreferenceOptimization(PreferenceObjective):
    """Raises the chosen answer over the rejected one, measured from where the policy began.

    With h the log-ratio of policy to reference of the chosen answer less that of the rejected:
    sigmoid is -(1 - s) log sigmoid(beta h) - s log sigmoid(-beta h), with s the label smoothing;
    ipo is (h - 1 / (2 beta))^2.

    **Source:** Rafailov et al., arXiv 2305.18290, equation 7; the label smoothing of Mitchell,
    "A note on DPO with noisy preferences" (2023); IPO of Azar et al., arXiv
    2310.12036, equation 17.
    """

    name = "dpo"
    measures: tuple[str, ...] = (
        "accuracy",
        "margin",
        "reward_chosen",
        "reward_rejected",
        "logp_chosen",
        "logp_rejected",
    )

    def __init__(
        self,
        *,
        beta: float = 0.1,
        loss: Literal["sigmoid", "ipo"] = "sigmoid",
        label_smoothing: float = 0.0,
        length_normalised: bool = False,
        reference: ReferenceKind = "precomputed",
    ) -> None:
        """Takes the form of the loss; the configuration has checked it.

        Args:
            beta: How strongly the policy is held to the reference.
            loss: sigmoid or ipo.
            label_smoothing: Share of pairs that may be labelled the wrong way round; of sigmoid.
            length_normalised: Whether log-probabilities are means over an answer's tokens, and
                not sums.
            reference: Where the reference's log-probabilities come from.
        """
        self.reference: ReferenceKind = reference
        self._beta = beta
        self._is_ipo = loss == "ipo"
        self._label_smoothing = label_smoothing
        self._length_normalised = length_normalised

    def pair_losses(self, model: torch.nn.Module, batch: TokenBatch) -> Losses:
        """Runs the policy on a batch that has the reference's log-probabilities."""
        assert batch.reference_logps is not None, "the batch has no reference"
        policy, reference = answer_logps(model, batch), batch.reference_logps
        if self._length_normalised:
            lengths = answer_lengths(batch)
            policy, reference = policy / lengths, reference / lengths
        ratios = policy - reference
        values = self._values(ratios[..., 0] - ratios[..., 1])
        rewards = self._beta * ratios.detach()
        margins = rewards[..., 0] - rewards[..., 1]
        measures = (margins > 0, margins, *rewards.unbind(-1), *policy.unbind(-1))
        return losses_of_pairs(values, measures, batch)

    def _values(self, advantages: torch.Tensor) -> torch.Tensor:
        """The loss of each pair, by how much more its chosen answer has gained. [rows, pairs]"""
        if self._is_ipo:
            return (advantages - 1 / (2 * self._beta)).square()
        scaled, smoothing = self._beta * advantages, self._label_smoothing
        values = -(1 - smoothing) * logsigmoid(scaled)
        # Without smoothing its term is left out, not multiplied by 0.
        return values - smoothing * logsigmoid(-scaled) if smoothing else values
