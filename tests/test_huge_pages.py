"""A command that starts itself over with huge pages."""

import os
import subprocess
import sys

import pytest

from xrt_jax import huge_pages

CODE = """
import os, sys
from xrt_jax.huge_pages import restart_with_huge_pages
print("start", os.getpid(), flush=True)
restart_with_huge_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}, "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, None),
    ],
)
def test_tunables(given, wanted):
    assert huge_pages.tunables_wanted(given) == wanted


@pytest.mark.skipif(not huge_pages._has_glibc(), reason="glibc only")
@pytest.mark.parametrize(("given", "starts"), [(None, 2), ("glibc.malloc.hugetlb=0", 1)])
def test_the_same_process_starts_over_once(given, starts):
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": given} if given else {}
    command = [sys.executable, "-c", CODE, "a b", "--c=d"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    *started, last = done.stdout.splitlines()
    assert len(started) == starts and len(set(started)) == 1
    assert last == f"{given or 'glibc.malloc.hugetlb=1'} ['a b', '--c=d']"
    assert done.returncode == 3


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(huge_pages, "_has_glibc", lambda: False)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started over"))
    huge_pages.restart_with_huge_pages()
