"""The tree of RFC 6962: every leaf is under its root, and nothing else is."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.vault import merkle

# the hashes of RFC 6962's reference implementation, for its eight test inputs
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
LEAVES = st.lists(st.binary(max_size=8), min_size=1, max_size=40).map(lambda d: [*map(merkle.leaf, d)])


@pytest.mark.parametrize(("size", "root"), ROOTS.items())
def test_the_root_is_that_of_the_standard(size, root):
    assert merkle.root([merkle.leaf(data) for data in INPUTS[:size]]).hex() == root


@given(LEAVES, st.data())
def test_every_leaf_climbs_to_the_root(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle.path(leaves, index)
    assert merkle.climb(leaves[index], index=index, size=len(leaves), path=path) == merkle.root(leaves)


@given(LEAVES, st.data())
def test_no_other_leaf_does(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    path, root = merkle.path(leaves, index), merkle.root(leaves)
    stranger = merkle.leaf(b"a leaf that is longer than all of them")
    assert merkle.climb(stranger, index=index, size=len(leaves), path=path) != root


@given(LEAVES, st.data())
def test_a_path_that_is_longer_or_shorter_leads_nowhere(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle.path(leaves, index)
    assert merkle.climb(leaves[index], index=index, size=len(leaves), path=[*path, b"x" * 32]) is None
    if path:
        assert merkle.climb(leaves[index], index=index, size=len(leaves), path=path[:-1]) is None


@pytest.mark.parametrize("index", [-1, 3])
def test_a_place_that_is_not_in_the_tree_leads_nowhere(index):
    assert merkle.climb(merkle.leaf(b""), index=index, size=3, path=[]) is None


def test_a_node_is_never_a_leaf():
    left, right = merkle.leaf(b"1"), merkle.leaf(b"2")
    assert merkle.leaf(left + right) != merkle.root([left, right])
    assert merkle.leaf(b"1") != sha256(b"1").digest()
