"""glibc keeps the memory that a step has freed, and the next step uses the same pages."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
# Prints how many pages the system had to provide for a second block of 100 MiB.
SECOND_BLOCK = """
import ctypes, resource, sys
from train_lib.distributed import memory

if sys.argv[1] == "keep":
    memory.keep_freed_memory()
library, size = ctypes.CDLL(None), 100 << 20
library.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of 4 KiB, whatever the system prefers
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def use():
    block = library.malloc(size)
    library.memset(block, 1, size)
    library.free(block)

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_later_steps_reuse_their_memory():
    def pages(word: str) -> int:
        command = [sys.executable, "-c", SECOND_BLOCK, word]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)

    assert pages("as before") > 1000
    assert pages("keep") < 100
