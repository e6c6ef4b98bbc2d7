"""An atlas that is killed at steps of its files, then made again: run in a process of its own.

python -m tests.support.killed_atlas TEMPLATE OUT
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.support.atlas import QUICK, copy_of, network_of

from opponent import Run, make_atlas
from opponent.atlas import means

FEW = replace(QUICK, grid=2, steps=1, batch=2, min_images=15)
SAVED = 20  # images between two savings of the cells' sums; the batches of 7 make it 21


def die(template: str, out: str) -> None:
    """At steps of its files be killed, then go on.

    A step is a file or folder that is flushed, or a file that gets its name.
    """
    torch.set_num_threads(1)
    means._SAVED = SAVED
    network, step, code = network_of(), -1, None
    while code != 0:
        # Every other one: of three steps a file, that meets each kind and each file.
        step += 2
        run = copy_of(Run(template), Path(out) / str(step))
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _count_to(step)
            make_atlas(run, run.features[0], network=network, settings=FEW)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = len(list(run.folder.rglob(".*.tmp.*")))
        sums = len(list(run.folder.rglob("sums.safetensors")))
        print(step, code, left, sums, flush=True)
        make_atlas(run, run.features[0], network=network, settings=FEW)


def _count_to(step: int) -> None:
    count = 0

    def counted(do: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*arguments)

        return wrapper

    os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]


if __name__ == "__main__":
    die(*sys.argv[1:])
