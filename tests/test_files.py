"States of any shape survive packing; a file is old or new, never between."

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from ddnb.base.check import DdnbError
from ddnb.base.files import pack, save_tensors, unpack, write_atomic
from runs import same

DTYPES = [torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False)
plain = st.none() | st.booleans() | numbers | st.text(max_size=8)
tensors = st.builds(lambda n, d: torch.arange(n).to(d), st.integers(0, 4), st.sampled_from(DTYPES))
keys = st.text(max_size=5) | st.integers(0, 9)
nests = st.recursive(
    plain | tensors,
    lambda c: st.lists(c, max_size=3) | st.dictionaries(keys, c, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(nests)
def test_any_state_survives_packing(state):
    packed, found = pack(state)
    assert same(state, unpack(json.loads(json.dumps(packed)), found))


def test_two_paths_that_read_alike_do_not_collide():
    state = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    assert same(state, unpack(*pack(state)))


def test_what_no_file_can_hold_is_named_with_its_place():
    with pytest.raises(TypeError, match="function.*/a/0"):
        pack({"a": [lambda: 0]})


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(old=st.binary(max_size=50), new=st.binary(max_size=50), fails=st.booleans())
def test_a_file_is_old_or_new_never_between(tmp_path, old, new, fails):
    path = tmp_path / "f"
    write_atomic(path, old)

    def content(tmp):
        Path(tmp).write_bytes(new[: len(new) // 2])
        if fails:
            raise OSError(28, "No space left on device")
        Path(tmp).write_bytes(new)

    if fails:
        with pytest.raises(DdnbError, match="No space left"):
            write_atomic(path, content)
    else:
        write_atomic(path, content)
    assert path.read_bytes() == (old if fails else new) and os.listdir(tmp_path) == ["f"]


def test_every_file_has_the_rights_of_a_new_one(tmp_path):
    "What others may read does not depend on who wrote it, a library or this package."
    (tmp_path / "plain").touch()
    write_atomic(tmp_path / "text", "a")
    save_tensors(tmp_path / "tensors", {"a": torch.zeros(2)})
    rights = {p.name: p.stat().st_mode for p in tmp_path.iterdir()}
    assert len(set(rights.values())) == 1, rights
