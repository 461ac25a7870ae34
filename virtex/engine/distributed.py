"""Launch and connect the processes of a job, on one machine or several."""

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

from virtex.engine.signals import (
    RESUME,
    SigtermReceived,
    forward_sigterm,
    kill_workers,
    protect_output,
    raise_on_sigterm,
)
from virtex.errors import UserError, describe_os_error

Main = Callable[[argparse.Namespace], None]
ERROR_DELAY = 3  # seconds: see in_process
# Errors of gloo, NCCL and the store that mean that another process is gone.
PEER_LOST = re.compile(
    r"gloo/|ncclRemoteError|NCCL (communicator|watchdog)|collective operation timeout|TCPStore"
    r"|Connection (closed|reset) by peer|Broken pipe"
)
TIMEOUT = timedelta(minutes=60)  # evaluating LVIS in the main process exceeds the default


def get_device(args: argparse.Namespace) -> str:
    """Return ``"cuda"`` or ``"cpu"``, as ``--num-gpus`` requests, by default if available.

    Raises:
        UserError: more GPUs are requested than available.
    """
    available = torch.cuda.device_count()
    if args.num_gpus is not None and args.num_gpus > available:
        raise UserError(
            f"--num-gpus is {args.num_gpus}, but {available} GPUs are available; --num-gpus 0 runs "
            "on the CPU",
            code="device.not_available",
        )
    return "cuda" if (available if args.num_gpus is None else args.num_gpus) else "cpu"


def is_main(args: argparse.Namespace) -> bool:
    """Return whether this process, or the first one it launches, is the main one of the job."""
    # RANK alone may be set by another launcher
    return int(os.environ["RANK"] if "LOCAL_RANK" in os.environ else args.machine_rank) == 0


def launch(main: Main, args: argparse.Namespace) -> int:
    """Call ``main(args)`` in every process of the job and return the exit status.

    torchrun has launched the processes already. Otherwise this machine launches one per GPU
    (``--num-gpus``), or one on the CPU; ``--num-machines`` machines do the same.

    Raises:
        UserError: raised by ``main`` in a job of a single process.
    """
    device = get_device(args)
    if "LOCAL_RANK" in os.environ:
        return in_process(main, args, device)
    count = (args.num_gpus or torch.cuda.device_count()) if device == "cuda" else 1
    if count * args.num_machines == 1:
        main(args)
        return 0
    address = rendezvous_address(args)
    started: list[int] = []
    sigterm = forward_sigterm(started)
    processes = start_processes(
        run_spawned, (main, args, device, count, address), count, join=False, start_method="spawn"
    )
    started += processes.pids()
    if sigterm.received:
        signal.raise_signal(signal.SIGTERM)
    try:
        while not processes.join():
            pass
    except ProcessExitedException as error:
        if error.signal_name == "SIGTERM":  # before the process had installed its handler
            raise SigtermReceived from error
        if error.signal_name:
            print(
                f"error: process {error.error_index + 1} of {count} on this machine was killed "
                f"({error.signal_name}), probably because memory ran out; use fewer --num-workers "
                "or smaller batches, then continue with --resume [run.process_killed]",
                file=sys.stderr,
                flush=True,
            )
            return 2
        if error.exit_code not in (2, RESUME):  # the process has printed its own error
            print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code if error.exit_code > 0 else 1
    return 0


def rendezvous_address(args: argparse.Namespace) -> tuple[str, int]:
    """Return host and port of the rendezvous.

    Raises:
        UserError: ``--machine-rank``, ``--num-machines`` and ``--dist-url`` are inconsistent.
    """
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank must be between 0 and --num-machines - 1, {args.num_machines - 1}, "
            f"not {args.machine_rank}",
            code="arguments.machine_rank",
        )
    if args.dist_url == "auto":
        if args.num_machines > 1:
            raise UserError(
                "several machines need --dist-url tcp://HOST:PORT, the address of the first one",
                code="arguments.dist_url",
            )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", free.getsockname()[1]
    try:
        url = urlsplit(args.dist_url)
        if url.scheme == "tcp" and url.hostname and url.port:
            return url.hostname, url.port
    except ValueError:  # the port is not a number
        pass
    raise UserError(
        f"--dist-url must have the form tcp://HOST:PORT, not {args.dist_url}",
        code="arguments.dist_url",
    )


def run_spawned(
    local_rank: int, main: Main, args: argparse.Namespace, device: str, count: int, address: tuple
) -> None:
    """Run one of the ``count`` processes launched here, with torchrun's environment variables."""
    os.environ |= {
        "MASTER_ADDR": address[0],
        "MASTER_PORT": str(address[1]),
        "WORLD_SIZE": str(count * args.num_machines),
        "RANK": str(args.machine_rank * count + local_rank),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(count),
    }
    protect_output()
    in_process(main, args, device)


def in_process(main: Main, args: argparse.Namespace, device: str) -> int:
    """Run one of several processes; for invalid input, exit immediately with status 2.

    The main process prints an error that all processes encounter. One that only another process
    encounters (an unreadable image in its share) is printed by that process ``ERROR_DELAY`` later;
    the launcher then stops the others, which would wait for it forever.
    """
    try:
        with raise_on_sigterm():
            init_process_group(device)
            main(args)
    except UserError as error:
        exit_now(f"{error} [{error.code}]", 2)
    except SigtermReceived as stopped:
        exit_now(str(stopped), RESUME)
    except OSError as error:
        if (message := describe_os_error(error)) is None:
            raise
        exit_now(message, 2)
    except RuntimeError as error:
        lost = isinstance(error, dist.DistStoreError | dist.DistNetworkError)
        if not (lost or PEER_LOST.search(str(error))):
            raise
        reason = str(error).partition("\n")[0]
        exit_now(
            f"lost the connection to another process of this job ({reason}); see its last message, "
            "then restart all processes with --resume [run.connection_lost]",
            2,
        )
    dist.destroy_process_group()
    return 0


def exit_now(message: str, status: int) -> NoReturn:
    """Exit without destroying the process group, which would wait for the other processes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # scheduler and launcher may both send it
    own_rank = int(os.environ["RANK"])
    time.sleep(ERROR_DELAY if own_rank else 0)
    if status != RESUME:
        message = f"error{f' in process {own_rank}' if own_rank else ''}: {message}"
    with suppress(OSError):  # a full disk
        if status != RESUME or own_rank == 0:
            print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
    kill_workers()
    os._exit(status)


def init_process_group(device: str) -> None:
    """Join the process group described by torchrun's environment variables."""
    if device == "cuda":
        local_rank, available = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= available:
            raise UserError(
                f"this machine has {available} GPUs, too few for its process {local_rank + 1}",
                code="device.not_available",
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)


def rank() -> int:
    """Return the rank of this process over all machines; 0 is the main process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes over all machines."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place and without gradient."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def broadcast_object(value: Any) -> Any:
    """Return the main process's ``value`` (picklable) in every process."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def all_gather_object(value: Any) -> list[Any]:
    """Return every process's ``value`` (picklable), by rank, in every process."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


@cache
def cpu_group() -> Any:
    """Return a group of all processes for CPU tensors; NCCL would have to wait for the GPU."""
    if dist.get_backend() == "gloo":
        return None
    return dist.new_group(backend="gloo", timeout=TIMEOUT)


def reduce_any(flag: bool) -> bool:
    """Return whether ``flag`` is set in any process."""
    if not dist.is_initialized():
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags, dist.ReduceOp.MAX, cpu_group())
    return bool(flags)


def sync_buffers(model: nn.Module) -> None:
    """Copy the main process's buffers (BatchNorm statistics), which checkpoints contain, to all.

    DistributedDataParallel does so only before each forward pass.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def synchronize() -> None:
    """Wait until every process has called this function."""
    if dist.is_initialized():
        dist.barrier()


def distribute(model: nn.Module, broadcast_buffers: bool = True) -> nn.Module:
    """Wrap a model in DistributedDataParallel, unless this is the only process.

    Args:
        broadcast_buffers: use the main process's BatchNorm statistics, which a checkpoint contains,
            in every process.
    """
    if world_size() == 1:
        return model
    # without device_ids inputs are not moved: some stay on the CPU
    if broadcast_buffers:  # left to the default: torch is about to rename this argument
        return nn.parallel.DistributedDataParallel(model)
    return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
