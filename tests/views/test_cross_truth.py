"What a mean hides: recall by class, confusion, and the verdict under the table."

import pytest

from ddnb import views as V

from .hands import front


def record(train, values, net="A"):
    confusion = [[1, 9], [0, 10]]
    at = dict(train=train, net=net, mean=sum(values) / len(values), n=len(values), std=0.01)
    more = dict(accuracy=values, seeds=list(range(len(values))), split="test", data="d")
    return at | more | dict(confusion=confusion, classes=["<b>sick</b>", "well"])


@pytest.fixture
def view():
    return V.CrossArchitecture([record("ours", [0.8, 0.9]), record("random", [0.5, 0.7])])


def test_recall_of_every_class(view):
    front(view.c_view, index=1)
    assert "<td>ours with A</td>" in view.table.value and ">10<" in view.table.value
    assert "&lt;b&gt;sick" in view.table.value and "<b>sick" not in view.table.value


def test_who_is_taken_for_whom(view):
    front(view.c_view, index=2)
    assert view.c_cell.value == "ours with A" and "recall" in view.table.value
    assert view.c_what.layout.display == "none" and view.c_cell.layout.display == ""
    front(view.c_cell, index=1)
    assert view.c_cell.value == "random with A"
    view.add(record("late", [0.1, 0.2]))
    assert view.c_cell.value == "random with A" and "late with A" in view.c_cell.options


def test_the_verdict_stands_under_the_table(view):
    assert "ours: " in view.said.value and "random" in view.said.value
    assert "&lt;b&gt;sick" in view.said.value
    bare = V.CrossArchitecture([dict(train="x", net="A", accuracy=0.5)])
    assert bare.said.value == "" and "±" not in bare.table.value
    front(bare.c_view, index=2)
    assert "do not say" in bare.table.value
