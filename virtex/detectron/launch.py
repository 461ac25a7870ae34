"""Start one process or several: Detectron2's own launcher, or whatever torchrun started."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from virtex.errors import UserError

Main = Callable[[argparse.Namespace], None]
SPEAK_SECONDS = 3
TIMEOUT = timedelta(minutes=60)  # scoring LVIS in the main process takes longer than the default


def device_of(args: argparse.Namespace) -> str:
    """``"cuda"`` or ``"cpu"``: what ``--num-gpus`` asks for, or what there is.

    Raises:
        UserError: more GPUs are asked for than there are.
    """
    there = torch.cuda.device_count()
    if args.num_gpus is not None and args.num_gpus > there:
        raise UserError(
            f"--num-gpus {args.num_gpus}, but this machine has {there}; --num-gpus 0 runs on "
            "the CPU"
        )
    wanted = there if args.num_gpus is None else args.num_gpus
    return "cuda" if wanted else "cpu"


def launch(main: Main, args: argparse.Namespace) -> int:
    """Call ``main(args)`` in every process of the job. Returns an exit status.

    Under torchrun the processes are there already. Otherwise one is started for each of
    ``--num-gpus`` GPUs on this machine, of ``--num-machines`` machines.

    Raises:
        UserError: from a single process, as ``main`` raised it.
    """
    device = device_of(args)
    if "LOCAL_RANK" in os.environ:
        join_torchrun(device)
        return in_process(main, args)
    here = (args.num_gpus or torch.cuda.device_count()) if device == "cuda" else 1
    if here * args.num_machines == 1:
        main(args)
        return 0
    if device == "cpu":
        raise UserError("several machines without GPUs are started with torchrun, one each")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError("several machines need --dist-url tcp://HOST:PORT of the first of them")
    try:
        detectron2_launch(
            in_spawned_process,
            here,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args),
        )
    except ProcessExitedException as error:
        return error.exit_code
    return 0


def join_torchrun(device: str) -> None:
    """Join the process group that torchrun's environment variables describe."""
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    # Detectron2 wants the ranks of each machine as a group (0.5 has no function for it)
    for first in range(0, dist.get_world_size(), local_size):
        group = dist.new_group(list(range(first, first + local_size)))
        if first <= dist.get_rank() < first + local_size:
            comm._LOCAL_PROCESS_GROUP = group


def in_process(main: Main, args: argparse.Namespace) -> int:
    """One of several processes; leaves at once with status 2 for what the user must mend.

    An error that all processes meet is said by the main one. One that only another process
    meets (an image of its share) is said by that one, after giving the main one time to speak;
    the launcher then ends the others, which would wait for it forever.
    """
    try:
        main(args)
    except UserError as error:
        rank = comm.get_rank()
        if rank:
            time.sleep(SPEAK_SECONDS)
        print(f"error{f' in process {rank}' if rank else ''}: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(2)  # ending the process group in order would wait for the others
    comm._LOCAL_PROCESS_GROUP = None
    dist.destroy_process_group()
    return 0


def in_spawned_process(main: Main, args: argparse.Namespace) -> None:
    in_process(main, args)
