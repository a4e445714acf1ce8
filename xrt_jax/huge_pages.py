"""Huge pages for large arrays: without them a training step on CPU loses up to a sixth of its time to page faults.

XLA allocates the temporary memory of each step anew, hundreds of megabytes that the system hands out page by page.
glibc can ask for huge pages, but is told so only by its environment, when a process starts.
"""

import os
import sys
from collections.abc import Mapping

_VARIABLE, _TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def restart_with_huge_pages() -> None:
    """Starts this command over, as the same process, with glibc told to use huge pages; returns where it was already.

    To be called first of all. Does nothing without glibc, nor where the environment speaks of huge pages itself.
    """
    tunables = tunables_wanted(os.environ)
    if _has_glibc() and tunables:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {_VARIABLE: tunables})


def tunables_wanted(environment: Mapping[str, str]) -> str | None:
    """GLIBC_TUNABLES with huge pages (glibc 2.35 and later know them), None where it says something about them."""
    given = environment.get(_VARIABLE, "")
    if _TUNABLE in given:
        return None
    return ":".join(filter(None, (given, f"{_TUNABLE}=1")))


def _has_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError, OSError):  # another system, or another C library
        return False
