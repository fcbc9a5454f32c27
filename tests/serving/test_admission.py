"""Counts of what is under way: given back whatever happens, and refused in the right words."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

pytest.importorskip("fastapi")

from serein.errors import RecipeError
from serein.serving.admission import Admission
from serein.serving.limits import Limits
from serein.serving.problems import Problem


def refused(status: int) -> object:
    """Expect a problem of this status that says when to try again."""
    return pytest.raises(Problem, check=lambda told: (told.status_code, *told.headers) == (status, "Retry-After"))


def test_a_client_and_all_clients_have_limits() -> None:
    admission = Admission(Limits(at_once=3, per_client=2))
    with ExitStack() as inside:
        inside.enter_context(admission.request("anna"))
        inside.enter_context(admission.request("anna"))
        with refused(429), admission.request("anna"):
            pass
        inside.enter_context(admission.request("ben"))
        with refused(503), admission.request("cleo"):
            pass
        assert admission.num_requests == 3
    assert admission.num_requests == 0
    with admission.request("anna"):
        assert admission.num_requests == 1


def test_streams_count_apart_but_for_their_client() -> None:
    admission = Admission(Limits(streams=2, per_client=2))
    with admission.stream("anna"), admission.request("anna"), refused(429), admission.stream("anna"):
        pass
    with admission.stream("anna"), admission.stream("ben"), refused(503), admission.stream("cleo"):
        pass
    assert admission.num_streams == 0


def test_places_are_given_back_after_faults() -> None:
    admission = Admission(Limits(at_once=1))
    for _ in range(3):
        with pytest.raises(ValueError, match="fault"), admission.request("anna"):
            raise ValueError("fault")
    assert admission.num_requests == 0


def test_memory_is_shared_and_given_back() -> None:
    admission = Admission(Limits(memory_bytes=100))
    with admission.memory() as take, admission.memory() as other:
        take(60)
        other(40)
        with refused(503):
            take(1)
        assert admission.num_bytes == 100
    assert admission.num_bytes == 0


def test_closed() -> None:
    admission = Admission(Limits())
    admission.is_closed = True
    for way in (admission.request, admission.stream):
        with refused(503), way("anna"):
            pass


def test_limits_are_positive() -> None:
    with pytest.raises(RecipeError, match="per_client: 0 is no limit"):
        Limits(per_client=0)
