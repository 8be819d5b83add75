"""Multi-view attention transfer: where along time the student is active, one map for each view of the signal.

MV-AT-style, after Shin et al., "Multi-View Attention Transfer for Efficient Speech Enhancement" (Interspeech 2022,
arXiv 2208.10367). Its abstract says what is transferred (the channel, global and local view of a multi-view model
such as MANNER) and that no parameters are added; a later paper (arXiv 2309.08144) says that the maps are attention
maps in the sense of Zagoruyko & Komodakis (ICLR 2017). The loss itself was not seen: the formulation is OURS.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdse.errors import UserError, require_at_least, require_one_of, require_positive
from kdse.objectives.base import Taps
from kdse.objectives.layerwise import Layerwise
from kdse.objectives.shapes import require_equal, resample
from kdse.precision import exact, full_precision

NAMED_VIEW = re.compile(r".+_(channel|global|local)")
LARGEST_CROP = 0.1  # padding differs by less; models whose hops differ, by more
AGREE = {"resample": "b", "crop": "bf", "equal": "btf"}


class MultiViewAttention(Layerwise):
    """Distance of normalised activation maps, view by view; channels are averaged away, so widths may differ.

    Of an activation F in view v and layer j, per item of the batch: ``M = mean_channels |F|^p`` (over time, and
    frequency if there is any), ``Q = vec(M) / max(|vec(M)|_2, eps)``, and

        L_v = sum_j | Q_student^j - Q_teacher^j |_2            L = sum_v w_v L_v,

    averaged over the batch. ``reduction="sum"`` is this equation, "mean" averages over the layers of a view (our
    choice). Each layer's distance lies between 0 and sqrt(2) (0 and 2 if squared). No heads. Only the activations
    right after each attention are compared: the gate of the channel view has the teacher's width, and matching it
    would need a projection.

    Args:
        view_weights: factor w_v by view; a view left out weighs 1, one with 0 is not computed. By default the views
            are "channel", "global" and "local".
        views: pairs of ``[teacher_tap, student_tap]`` by view, for any two models, e.g. ``{global: [[encoder.3,
            encoder.2]]}``; the names of views are free. By default taps named ``<block>_channel``, ``<block>_global``
            and ``<block>_local`` (as `Manner` declares them) that both models have. Decoder blocks count from the
            deepest, so models of different depth need their decoder pairs named here.
        power: p, at least 1; 2 is our choice.
        norm: "zagoruyko" takes the distance as printed above, "squared" its square, whose gradient vanishes as the
            student converges. Default: our choice.
        lengths: what to do with frame counts that differ: "crop" drops the end of the longer, if that is at most a
            tenth (models of different depth pad differently); "resample" averages both maps down to the coarser
            grid in time and frequency; "equal" refuses. Our choice.
        eps: smallest norm that is divided by.
        pairs: "all", or the group "encoder", "bottleneck" or "decoder" that the default views are taken from.
    """

    def __init__(
        self,
        view_weights: dict[str, float] | None = None,
        views: dict[str, list[list[str]]] | None = None,
        power: float = 2.0,
        norm: str = "zagoruyko",
        lengths: str = "crop",
        eps: float = 1e-12,
        pairs: str = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(pairs=pairs, **kwargs)
        if not isinstance(pairs, str):
            raise UserError(f"pairs={pairs!r}: this objective needs to know each pair's view; name the pairs in views")
        if views is not None and pairs != "all":
            raise UserError(f"pairs={pairs!r} selects from the default views; leave it out when you give views")
        require_at_least(1, power=power)
        require_positive(eps=eps)
        require_one_of("norm", norm, "zagoruyko", "squared")
        require_one_of("lengths", lengths, *AGREE)
        given = dict(view_weights or {})
        known_views = ("channel", "global", "local") if views is None else tuple(views)
        unknown = sorted(set(given) - set(known_views))
        if unknown:
            raise UserError(f"view_weights names {unknown}, but the views are {list(known_views)}")
        self.view_weights = {view: float(given.get(view, 1.0)) for view in known_views}
        if not all(w >= 0 for w in self.view_weights.values()) or not any(self.view_weights.values()):
            raise UserError(f"view_weights={self.view_weights}: give zero or more to each view, above zero to one")
        self.views = views
        self.power, self.norm, self.lengths, self.eps = power, norm, lengths, eps
        self.bound_views: list[str] = []  # one a bound pair; set with the pairs

    def resolve_pairs(self, teacher: Taps, student: Taps) -> list[tuple[str, str]]:
        """The pairs of all views that have a weight, and in `bound_views` the view of each."""
        wanted = {view for view, weight in self.view_weights.items() if weight > 0}
        if self.views is None:
            found = [(match[1], (name, name)) for name, match in self._shared(teacher, student) if match[1] in wanted]
        else:
            named = [(v, self.check_pairs(pairs, teacher, student)) for v, pairs in self.views.items() if v in wanted]
            found = [(view, pair) for view, pairs in named for pair in pairs]
        self.bound_views = [view for view, _ in found]
        missing = [view for view in self.view_weights if view in wanted and view not in self.bound_views]
        if missing:
            raise UserError(
                f"objectives.{self.name}: no pair of taps for the views {missing}. The teacher has {list(teacher)}, "
                f"the student {list(student)}; name pairs in --objectives.{self.name}.views, or give a view the "
                f"weight 0 in --objectives.{self.name}.view_weights"
            )
        return [pair for _, pair in found]

    def _shared(self, teacher: Taps, student: Taps) -> list[tuple[str, re.Match[str]]]:
        """Taps of a view and the wanted group that both models have by the same name."""
        shared = [name for name, tap in teacher.items() if name in student and self.pairs in ("all", tap.group)]
        return [(name, match) for name in shared if (match := NAMED_VIEW.fullmatch(name))]

    def compare(self, teacher: list[Tensor], student: list[Tensor], views: Sequence[str] | None = None) -> Tensor:
        """The bare equation on activations ``[B, C, T, F]``, one of each network a pair.

        ``views`` names the view of each pair; by default that of each bound pair.
        """
        views = self.bound_views if views is None else views
        if not teacher or not len(teacher) == len(student) == len(views):
            raise UserError(
                f"objectives.{self.name}: {len(teacher)} teacher and {len(student)} student activations of "
                f"{len(views)} views; give one view a pair"
            )
        names = self.bound_pairs if len(self.bound_pairs) == len(views) else [(view, view) for view in views]
        layers: dict[str, list[Tensor]] = {}
        for pair, a, b, view in zip(names, teacher, student, views, strict=True):
            if view not in self.view_weights:
                raise UserError(f"objectives.{self.name}: unknown view {view!r}; the views are {[*self.view_weights]}")
            self.check_pair(pair, a.shape, b.shape)
            with full_precision(b.device):
                layers.setdefault(view, []).append(self._distance(exact(a), exact(b)).mean())
        total = torch.stack([self.view_weights[view] * torch.stack(gaps).sum() for view, gaps in layers.items()])
        if self.reduction == "mean":
            total = total / total.new_tensor([len(gaps) for gaps in layers.values()])
        return total.sum()

    def check_pair(self, pair: tuple[str, str], teacher: Sequence[int], student: Sequence[int]) -> None:
        require_equal(self.name, pair, teacher, student, AGREE[self.lengths])
        longer, shorter = max(teacher[2], student[2]), min(teacher[2], student[2])
        if self.lengths == "crop" and longer - shorter > LARGEST_CROP * longer:
            raise UserError(
                f"objectives.{self.name}: teacher tap {pair[0]!r} {[*teacher]} and student tap {pair[1]!r} "
                f"{[*student]} ([B, C, T, F]) differ in frames by more than padding explains; pair taps of one "
                f"resolution (--objectives.{self.name}.views) or set --objectives.{self.name}.lengths=resample"
            )

    def _distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """One value an item: ``[B]``."""
        maps = [x.abs().pow(self.power).mean(1, keepdim=True) for x in (teacher, student)]
        frames, frequencies = (min(a, b) for a, b in zip(teacher.shape[2:], student.shape[2:], strict=True))
        if self.lengths == "resample":
            maps = [resample(m, frames, frequencies) for m in maps]
        flat = [m[:, :, :frames].flatten(1) for m in maps]
        a, b = (m / torch.linalg.vector_norm(m, dim=1, keepdim=True).clamp_min(self.eps) for m in flat)
        return (b - a).square().sum(1) if self.norm == "squared" else torch.linalg.vector_norm(b - a, dim=1)
