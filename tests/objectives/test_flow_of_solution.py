"""FSP matrices agree with a loop over the equation; which flows are taken is as stated."""

from __future__ import annotations

import pytest
import torch

from kdse.objectives.flow_of_solution import FlowOfSolution
from tests.objectives.pairs import B, activations, bound

EQUAL = [(5, 5, 4), (3, 3, 4), (2, 2, 4)]


def loop_flow(first: torch.Tensor, second: torch.Tensor, n: int) -> list[float]:
    frames, bins = first.shape[2:]
    matrix = []
    for i in range(first.shape[1]):
        for j in range(second.shape[1]):
            total = sum(float(first[n, i, t, f] * second[n, j, t, f]) for t in range(frames) for f in range(bins))
            matrix.append(total / (frames * bins))
    return matrix


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_it_agrees_with_a_loop(reduction):
    teacher, student = activations(0, 0, EQUAL), activations(1, 1, EQUAL)
    terms = []
    for i, j in [(0, 1), (1, 2)]:
        total = 0.0
        for n in range(B):
            flows = loop_flow(teacher[i], teacher[j], n), loop_flow(student[i], student[j], n)
            total += sum((p - q) ** 2 for p, q in zip(*flows, strict=True))
        terms.append(total / B if reduction == "sum" else total / (B * teacher[i].shape[1] * teacher[j].shape[1]))
    expected = sum(terms) if reduction == "sum" else sum(terms) / 2
    value = FlowOfSolution(reduction=reduction).compare(teacher, student)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_flows_lead_to_the_next_tap_of_equal_frames_and_frequencies():
    u_net = [torch.Size([1, 2, 9, f]) for f in (40, 20, 20, 40, 80)]
    assert FlowOfSolution().flows(u_net, u_net) == [(0, 3), (1, 2)]
    assert FlowOfSolution(between="consecutive").flows(u_net, u_net) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    with pytest.raises(ValueError, match='no two of the 2 pairs.*between: "consecutive"'):
        FlowOfSolution().flows(u_net[:2], u_net[:2])


def test_both_networks_must_have_equal_sizes_along_a_flow():
    teacher = [torch.Size([1, 2, 9, f]) for f in (40, 20, 40)]
    student = [torch.Size([1, 2, 9, f]) for f in (30, 20, 20)]
    with pytest.raises(ValueError, match="no two"):
        FlowOfSolution().flows(teacher, student)


def test_the_two_networks_may_differ_in_frames_because_they_are_averaged_away():
    teacher, student = activations(0, 0, EQUAL), activations(1, 1, EQUAL)
    twice = [x.repeat_interleave(2, 2) for x in student]
    value = FlowOfSolution().compare(teacher, twice).item()
    assert value == pytest.approx(FlowOfSolution().compare(teacher, student).item(), rel=1e-10)


def test_consecutive_flows_average_the_longer_axis_down():
    teacher, student = activations(0, 0, EQUAL[:2]), activations(1, 1, EQUAL[:2])
    longer = [[a.repeat_interleave(3, 3), b] for a, b in (teacher, student)]
    value = FlowOfSolution(between="consecutive").compare(*longer).item()
    assert value == pytest.approx(FlowOfSolution().compare(teacher, student).item(), rel=1e-10)


def test_a_narrower_student_gets_a_convolution_or_an_error():
    layers = [(5, 2, 4), (3, 3, 4)]
    teacher, student = activations(0, 0, layers), activations(1, 1, layers)
    objective = FlowOfSolution()
    exchange = bound(objective, teacher, student)
    assert list(exchange.heads) == ["0"]  # the second layer is equally wide
    head = exchange.heads["0"]
    wide = torch.einsum("oc,bctf->botf", head.weight[:, :, 0, 0], student[0]) + head.bias[:, None, None]
    expected = objective.compare(teacher, [wide, student[1]])
    assert objective.loss(exchange).item() == pytest.approx(expected.item(), rel=1e-10)
    with pytest.raises(ValueError, match=r"t0.*\[1, 5, 3, 4\].*s0.*\[1, 2, 3, 4\].*channels.*project=true"):
        bound(FlowOfSolution(project=False), teacher, student)
    with pytest.raises(ValueError, match="project=true"):
        FlowOfSolution().compare(teacher, student)
