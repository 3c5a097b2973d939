"""One number of compute threads a worker: sums are split by thread, so scores depend on it in their last bits."""

import contextlib
import os
import sys
from collections.abc import Iterator

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def limit_threads(threads: int) -> None:
    """Takes effect for torch whether it is loaded already or later in this process."""
    for variable in _VARIABLES:
        os.environ[variable] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """`limit_threads` for a while: a caller's own process gets its settings back."""
    torch = sys.modules.get("torch")
    before = {variable: os.environ.get(variable) for variable in _VARIABLES}
    torch_threads = torch.get_num_threads() if torch is not None else None
    limit_threads(threads)
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value
        if torch is not None and torch_threads is not None:
            torch.set_num_threads(torch_threads)
