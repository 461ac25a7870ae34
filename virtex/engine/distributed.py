"""Start one process or several, on one machine or several; or join those torchrun started."""

import argparse
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any, NoReturn
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from virtex.engine.signals import RESUME, Stopped, end_workers, forward_sigterm, raise_on_sigterm
from virtex.errors import UserError, describe_os_error

Main = Callable[[argparse.Namespace], None]
SPEAK_SECONDS = 3
# of gloo's, NCCL's and the store's errors: that another process is not there
LOST = re.compile(
    r"gloo/|ncclRemoteError|NCCL (communicator|watchdog)|collective operation timeout|TCPStore"
    r"|Connection (closed|reset) by peer|Broken pipe"
)
KILLED = (
    "probably because memory ran out; use fewer --num-workers or smaller batches, then go on with "
    "--resume"
)
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


def is_main(args: argparse.Namespace) -> bool:
    """Whether this process, or the first that it starts, is the main one of the job."""
    # a job of other processes may have set RANK alone
    return int(os.environ["RANK"] if "LOCAL_RANK" in os.environ else args.machine_rank) == 0


def launch(main: Main, args: argparse.Namespace) -> int:
    """Call ``main(args)`` in every process of the job. Returns an exit status.

    Under torchrun the processes are there already. Otherwise this machine gets one for each of
    ``--num-gpus`` GPUs, or one on the CPU, of ``--num-machines`` machines.

    Raises:
        UserError: from a single process, as ``main`` raised it.
    """
    device = device_of(args)
    if "LOCAL_RANK" in os.environ:
        return in_process(main, args, device)
    here = (args.num_gpus or torch.cuda.device_count()) if device == "cuda" else 1
    if here * args.num_machines == 1:
        main(args)
        return 0
    address = rendezvous_address(args)
    started: list[int] = []
    stop = forward_sigterm(started)
    processes = start_processes(
        spawned, (main, args, device, here, address), here, join=False, start_method="spawn"
    )
    started += processes.pids()
    if stop.asked:
        signal.raise_signal(signal.SIGTERM)
    try:
        while not processes.join():
            pass
    except ProcessExitedException as error:
        if error.signal_name == "SIGTERM":  # before it could take notice
            raise Stopped from error
        if error.signal_name:
            which = f"process {error.error_index + 1} of {here} on this machine"
            said = f"error: {which} was killed ({error.signal_name}), {KILLED}"
            print(said, file=sys.stderr, flush=True)
            return 2
        if error.exit_code not in (2, RESUME):  # which the process itself has explained
            print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code if error.exit_code > 0 else 1
    return 0


def rendezvous_address(args: argparse.Namespace) -> tuple[str, int]:
    """Host and port at which the processes meet.

    Raises:
        UserError: the machines, their ranks and ``--dist-url`` do not fit together.
    """
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank {args.machine_rank} of --num-machines {args.num_machines}; ranks "
            "count from 0"
        )
    if args.dist_url == "auto":
        if args.num_machines > 1:
            raise UserError("several machines need --dist-url tcp://HOST:PORT of the first one")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", free.getsockname()[1]
    try:
        url = urlsplit(args.dist_url)
        if url.scheme == "tcp" and url.hostname and url.port:
            return url.hostname, url.port
    except ValueError:  # a port that is no number
        pass
    raise UserError(f"--dist-url {args.dist_url} is not of the form tcp://HOST:PORT")


def spawned(
    local_rank: int, main: Main, args: argparse.Namespace, device: str, here: int, address: tuple
) -> None:
    """One process that ``launch`` started: told the same as torchrun tells its own."""
    os.environ |= {
        "MASTER_ADDR": address[0],
        "MASTER_PORT": str(address[1]),
        "WORLD_SIZE": str(here * args.num_machines),
        "RANK": str(args.machine_rank * here + local_rank),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(here),
    }
    in_process(main, args, device)


def in_process(main: Main, args: argparse.Namespace, device: str) -> int:
    """One of several processes; leaves at once with status 2 for what the user must fix.

    An error that all processes meet is said by the main one. One that only another process
    meets (an image of its share) is said by that one, after giving the main one time to speak;
    the launcher then ends the others, which would wait for it forever.
    """
    try:
        with raise_on_sigterm():
            join(device)
            main(args)
    except UserError as error:
        leave(str(error), 2)
    except Stopped as stopped:
        leave(str(stopped), RESUME)
    except OSError as error:
        if (sentence := describe_os_error(error)) is None:
            raise
        leave(sentence, 2)
    except RuntimeError as error:
        lost = isinstance(error, dist.DistStoreError | dist.DistNetworkError)
        if not (lost or LOST.search(str(error))):
            raise
        reason = str(error).partition("\n")[0]
        leave(
            f"another process of this job has ended or cannot be reached ({reason}); see what it "
            "said last, then start all of them again with --resume",
            2,
        )
    dist.destroy_process_group()
    return 0


def leave(sentence: str, status: int) -> NoReturn:
    """End this process of several at once; ending the group in order would wait for the others."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come from a cluster and a launcher
    here = int(os.environ["RANK"])
    time.sleep(SPEAK_SECONDS if here else 0)
    if status == RESUME:
        said = "" if here else sentence
    else:
        said = f"error{f' in process {here}' if here else ''}: {sentence}"
    with suppress(OSError):  # a full disk
        if said:
            print(said, file=sys.stderr, flush=True)
        sys.stdout.flush()
    end_workers()
    os._exit(status)


def join(device: str) -> None:
    """Join the process group that the environment variables describe."""
    if device == "cuda":
        local_rank, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= there:
            raise UserError(f"process {local_rank + 1} of this machine has no GPU; it has {there}")
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)


def rank() -> int:
    """This process's number among all of the job, on all machines; 0 is the main one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes of the job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """``values`` added up over all processes (in place, no gradient)."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def broadcast_object(value: Any) -> Any:
    """The main process's ``value`` (anything that can be pickled), in every process."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def all_gather_object(value: Any) -> list[Any]:
    """Each process's ``value`` (anything that can be pickled), by rank, in every process."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


@cache
def group_of_cpus() -> Any:
    """All processes, for what is on the CPU: a GPU would be waited for."""
    if dist.get_backend() == "gloo":
        return None
    return dist.new_group(backend="gloo", timeout=TIMEOUT)


def reduce_any(flag: bool) -> bool:
    """Whether ``flag`` is set in one process at least."""
    if not dist.is_initialized():
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags, dist.ReduceOp.MAX, group_of_cpus())
    return bool(flags)


def share_buffers(model: nn.Module) -> None:
    """Give all processes the main one's BatchNorm statistics, which are those of a checkpoint.

    ``distribute`` does so before each forward pass, after which every process has seen images
    of its own again.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def synchronize() -> None:
    """Go on when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def distribute(model: nn.Module, broadcast_buffers: bool = True) -> nn.Module:
    """Wrap for several processes, each with its GPU or on the CPU; alone, nothing changes.

    Args:
        broadcast_buffers: let all use the main process's BatchNorm statistics, which are those
            that a checkpoint holds.
    """
    if world_size() == 1:
        return model
    # without device_ids inputs stay where they are: some are wanted on the CPU
    if broadcast_buffers:  # the default is not said: torch is about to rename this argument
        return nn.parallel.DistributedDataParallel(model)
    return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
