"""Tensor fusion against its equation, and what a matrix keeps when rows are added."""

from __future__ import annotations

import pytest
import torch

from serein.errors import RecipeError
from serein.models.blocks import TensorFusion, require_one_size


def fusion(num_inputs: int = 0) -> TensorFusion:
    made = TensorFusion(num_own=2, size=3, num_inputs=num_inputs)
    with torch.no_grad():
        made.own.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        if made.inputs is not None:
            made.inputs.copy_(torch.tensor([[10.0, 20.0, 30.0]]))
    return made


OWN = [torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 1.0, 0.5]])]
INPUTS = [torch.tensor([[0.1, 0.2, 0.3]])]


def test_by_hand() -> None:
    """1*1 + 4*2, 2*0 + 5*1, 3*(-1) + 6*0.5; and with the joined one 10*0.1, 20*0.2, 30*0.3 more."""
    assert fusion()(OWN).tolist() == [[9.0, 5.0, 0.0]]
    assert fusion(1)(OWN, INPUTS).tolist() == [pytest.approx([10.0, 9.0, 9.0])]
    assert fusion(1)(OWN).tolist() == [[9.0, 5.0, 0.0]]  # the own ones alone


def test_by_its_equation() -> None:
    """E = sum_i W_i * h_i over all k + 1 rows."""
    torch.manual_seed(0)
    made = TensorFusion(4, 5, 1, start=0.5)
    vectors = [torch.randn(7, 5) for _ in range(5)]
    expected = (made.matrix[None] * torch.stack(vectors, dim=1)).sum(dim=1)
    torch.testing.assert_close(made(vectors[:4], vectors[4:]), expected)
    assert made.matrix.tolist() == [[1.0] * 5] * 4 + [[0.5] * 5]


def test_a_new_row_leaves_the_first_answer_as_it_was_and_learns() -> None:
    trained = fusion()
    wider = trained.extended(1)
    assert wider.matrix.shape == (3, 3)
    assert torch.equal(wider.matrix[:2], trained.matrix)
    assert not wider.matrix[2].any()
    assert torch.equal(wider(OWN, INPUTS), trained(OWN))
    wider(OWN, INPUTS).sum().backward()
    assert wider.inputs.grad.tolist() == INPUTS[0].tolist()


def test_rows_are_added_below_those_there_are() -> None:
    wider = fusion(1).extended(1, start=7.0)
    assert wider.matrix.tolist() == [*fusion(1).matrix.tolist(), [7.0, 7.0, 7.0]]


def test_alone_the_joined_rows_neither_count_nor_learn() -> None:
    made = fusion(1)
    made(OWN).sum().backward()
    assert made.inputs.grad is None
    assert made.own.grad is not None


def test_vectors_of_two_sizes_are_no_sum() -> None:
    require_one_size(3, {"speaker": 3})
    with pytest.raises(RecipeError, match="the vector of 'speaker' has 5 features, those that it joins have 3"):
        require_one_size(3, {"speaker": 5})
