"""A place for what numba compiles, where it finds none of its own."""

import atexit
import os
import shutil
import tempfile
from importlib.util import find_spec
from types import FunctionType

# The user's own choice, which numba reads.
_PLACE = "NUMBA_CACHE_DIR"


def keep_compiled(*modules: str) -> None:
    """Let functions of some modules be compiled that numba is to keep, wherever it may write.

    It keeps them beside the module or in the user's cache, and refuses to define them where it can
    write to neither: in an installation that is read-only, for a user without a home. There they
    are kept in a folder that is made for this process, and removed with it.

    Args:
        modules: names of modules and packages, before they are imported. Packages that are not
            there are passed over.
    """
    import numba

    if os.environ.get(_PLACE) or all(_has_place(module) for module in modules):
        return
    folder = tempfile.mkdtemp(prefix="opponent-numba-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[_PLACE] = folder
    numba.config.reload_config()


def _has_place(module: str) -> bool:
    """Whether numba finds a place for functions of a module: it is asked with one of that file."""
    import numba

    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return True
    code = compile("def asked(): pass", spec.origin, "exec")
    function = FunctionType(code.co_consts[0], {"__name__": module}, "asked")
    try:
        numba.njit(cache=True)(function)
    except RuntimeError:  # "no locator available"
        return False
    return True
