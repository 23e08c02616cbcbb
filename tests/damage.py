"""Damage for tests: files with bytes changed, cut out or repeated, and values of another form."""

import copy

from hypothesis import strategies as st


@st.composite
def damaged(draw, content):
    """``content`` with up to four places changed, and perhaps its end cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        # Headers and directories, where most of the damage can be done, are at the ends.
        start = draw(st.one_of(st.integers(0, 300), st.integers(-300, -1), st.integers(0, 1 << 20)))
        start %= len(content) + 1
        stop = start + draw(st.integers(0, 60))
        content[start:stop] = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\x80"]),
                st.just(bytes(content[start:stop]) * 2),
            )
        )
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


ODD = [None, True, 0, -1, 3, 2**64, 1.5, float("nan"), "", "a\nb", "\ud800", [], [[]], {}, {"": 1}]


@st.composite
def altered(draw, value):
    """A nested ``value`` with a part replaced by another, removed, or under another name."""
    value = copy.deepcopy(value)
    parent, key = None, None
    node = value
    while isinstance(node, (dict, list)) and node and (parent is None or draw(st.integers(0, 3))):
        parent, key = node, draw(st.sampled_from(list(node) if isinstance(node, dict) else [0]))
        node = parent[key]
    if parent is None or not draw(st.integers(0, 20)):
        return draw(st.sampled_from(ODD))
    how = draw(st.sampled_from(["replace", "remove", "rename"]))
    old = parent.pop(key)
    if isinstance(parent, list):
        parent.extend([] if how == "remove" else [draw(st.sampled_from(ODD))])
    elif how != "remove":
        name, part = (key, draw(st.sampled_from(ODD))) if how == "replace" else (f"{key}x", old)
        parent[name] = part
    return value
