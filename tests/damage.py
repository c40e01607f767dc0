"""What the property tests share: injuries to bytes, odd values, and what may come of them."""

import contextlib
import random

from hypothesis import event, settings
from hypothesis import strategies as st

from errors import UserError

SOME = max(10, settings().max_examples // 5)  # cases of what takes long


@contextlib.contextmanager
def refusals(*others):
    """Lets UserErrors of one line, and `others`, pass, and nothing else."""
    try:
        yield
        event("good")
    except (UserError, *others) as error:
        event("refused")
        is_one_line(str(error))


def is_one_line(text: str) -> None:
    assert text
    assert len(text.splitlines()) == 1
    text.encode()  # raises for what no terminal takes
    assert "\x1b" not in text and "\0" not in text


def damaged(content: bytes):
    """`content` with up to four injuries: anywhere, or near its start; mostly small ones."""
    # Uniform: Hypothesis's own choices would hit the first bytes, by which a file is known.
    return st.randoms(use_true_random=True).map(lambda rng: _injured(bytearray(content), rng))


def _injured(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 4])):
        if not data:
            break
        at = rng.randrange(len(data) if rng.random() < 0.6 else min(len(data), 200))
        length = rng.randint(1, 8) if rng.random() < 0.7 else rng.randint(1, len(data))
        kind = rng.choice(["flip", "flip", "set", "cut", "drop", "zero", "copy", "number"])
        if kind == "flip":
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "set":
            data[at : at + length % 8] = rng.randbytes(length % 8)
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + length]
        elif kind == "zero":
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == "copy":
            source = rng.randrange(len(data))
            data[at:at] = data[source : source + length]
        else:
            width = rng.choice([2, 4, 8])
            number = rng.choice([0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1])
            data[at : at + width] = number.to_bytes(width, rng.choice(["big", "little"]))
    return bytes(data)


NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, 2**31, 2**63, 10**18, 10**400, 1e308, 5e-324, float("nan")])
)
_NAMES = """map mse softmax steps plateau linear channel pixel dense digits ten_crop multi_crop
maxout dropconnect folder mlp vgg mnist imagenet2012 area train eigenvalues random relu"""
_ODD = ["", "..", "../..", "/", "a\nb", "\x1b[2J", "\0", "\udcff", "\ud800", "$\\frac$", "a" * 5000]
WORDS = st.sampled_from(_NAMES.split()) | st.sampled_from(_ODD) | st.text(max_size=12)
VALUES = (
    NUMBERS
    | st.booleans()
    | WORDS
    | st.lists(NUMBERS | WORDS | st.lists(NUMBERS, max_size=2).map(tuple), max_size=4).map(tuple)
    | st.dictionaries(WORDS, NUMBERS | WORDS, max_size=2)
    | st.none()
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)
DEEP = "[" * 100_000
