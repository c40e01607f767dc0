"""A little of each stress test: the whole ones take minutes to hours, see docs/reliability.md."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
interposer = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None,
    reason="interpose.c needs Linux and a C compiler",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("corruption", "--every=183"), "\n0 failures"),
        pytest.param(
            ("kills", "--every=73", "--random=1", "--chains=0"), "\n0 failures", marks=interposer
        ),
        pytest.param(
            ("faults", "--every=167", "--errors=ENOSPC,EIO"), "\n0 failures", marks=interposer
        ),
        pytest.param(
            ("faults", "--reading", "--every=167", "--errors=EIO,EMFILE"),
            "\n0 failures",
            marks=interposer,
        ),
        (("resume", "--only=mlp", "--cuts=2"), "2 cuts, 0 failures"),
        (("hygiene", "--steps=4000"), " 0 grown"),
    ],
    ids=["corruption", "kills", "faults", "reading", "resume", "hygiene"],
)
def test_a_sample(arguments, said):
    name, *options = arguments
    done = subprocess.run(
        [sys.executable, "-m", f"tests.stress.{name}", *options],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert said in done.stdout
