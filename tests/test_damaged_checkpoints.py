"""Checkpoints with injuries, or of a stranger: what was saved, the one before it, or one line.

`tests.stress.corruption` tries every byte in order; this, several injuries at once, and
descriptions that say something else and have the checksum for it. Numbers of cases: see
test_properties.py.
"""

import contextlib
import functools
import io
import json
import pathlib
import shutil
import tempfile

import numpy as np
from damage import JSON, SOME, damaged, refusals
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stress.corruption import prepare, state
from train_lib.checkpoints import Checkpoints, description_digest


@functools.cache
def original() -> pathlib.Path:
    """A run's folder with checkpoints of steps 3 and 10."""
    folder = pathlib.Path(tempfile.mkdtemp())
    prepare(folder)
    return folder


@functools.cache
def files() -> dict[str, bytes]:
    newest = original() / "checkpoints" / "10"
    found = sorted(path for path in newest.rglob("*") if path.is_file())
    return {str(path.relative_to(newest)): path.read_bytes() for path in found}


DESCRIPTION = "description/metadata"


def restored(changed: dict[str, bytes]) -> list:
    """Steps that came back, by `restore`, `best_step` and `restore_variables`; None: refused.

    Arrays of the steps are compared; `changed`: files of the newest checkpoint.
    """
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root) / "run"
        shutil.copytree(original(), folder)
        for name, content in changed.items():
            (folder / "checkpoints" / "10" / name).write_bytes(content)
        steps = []
        for read_only, ask in (
            (True, "restore_variables"),
            (True, "best_step"),
            (False, "restore"),
        ):
            steps.append(None)
            with contextlib.redirect_stderr(io.StringIO()), refusals():
                opened = Checkpoints(folder, read_only=read_only)
                found = getattr(opened, ask)(*([state(0)] if ask == "restore" else []))
                if ask == "best_step":
                    steps[-1] = found
                    continue
                steps[-1], values = found
                params = state(steps[-1])["params"]
                for name in params:
                    np.testing.assert_array_equal(values["params"][name], params[name])
        return steps


@settings(max_examples=SOME)
@given(st.data())
def test_several_injuries(data):
    names = data.draw(st.lists(st.sampled_from(sorted(files())), min_size=1, max_size=3))
    steps = restored({name: data.draw(damaged(files()[name])) for name in names})
    # An unreadable file of Orbax's own keeps the whole folder from being opened to read only.
    assert steps[0] in (3, 10, None)
    assert steps[1] in (3, 10, None)
    assert steps[2] in (3, 10)


ODD = {
    "metrics": JSON,
    "arrays": JSON | st.dictionaries(st.sampled_from(["['params']['w']", "x", ""]), JSON),
    "step": JSON,
    "layout": JSON,
    "more": JSON,
}


@settings(max_examples=SOME)
@given(st.fixed_dictionaries({}, optional=ODD), st.booleans())
def test_a_description_that_is_made_up(fields, intact):
    description = json.loads(files()[DESCRIPTION]) | fields
    if intact:
        description["digest"] = description_digest(description)
    steps = restored({DESCRIPTION: json.dumps(description).encode()})
    assert set(steps) <= {3, 10, None}
