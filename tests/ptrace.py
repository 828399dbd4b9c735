"""What a process leaves on the disk if it is killed at any one of its system calls (Linux; man 2 ptrace).

    for state in states_at_each_system_call(lambda: save(folder), folder.parent):
        state                   # {relative path: bytes, or None for a folder}

A kill takes effect when a process enters the kernel or comes back from it, and between two calls it changes no file. So the
function runs in a forked child that the kernel stops at every entry; what lies on the disk then is just what a SIGKILL there
would leave for good, and all instants are seen in one run.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

TRACEME, CONTINUE_TO_SYSCALL, SETOPTIONS = 0, 24, 0x4200
EXITKILL, MARK_SYSCALLS = 0x100000, 1
SYSCALL_STOP = signal.SIGTRAP | 0x80

State = dict[str, bytes | None]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def states_at_each_system_call(function: Callable[[], None], root: Path) -> tuple[int, list[State]]:
    """Run a function in a traced child; the number of its system calls, and the states of `root`, each time it had changed.

    Raises:
        PermissionError: this machine does not let a process trace its child.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _ptrace(TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            function()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        raise PermissionError("a process cannot trace its child here")
    _ptrace(SETOPTIONS, child, EXITKILL | MARK_SYSCALLS)
    stops, pending = 0, 0
    states = [_state(root)]
    while True:
        _ptrace(CONTINUE_TO_SYSCALL, child, pending)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the function failed"
            return stops // 2, states
        pending = 0 if os.WSTOPSIG(status) == SYSCALL_STOP else os.WSTOPSIG(status)
        stops += not pending
        if not pending and stops % 2 == 1 and (state := _state(root)) != states[-1]:
            states.append(state)


def restore(state: State, root: Path) -> None:
    """Lay a state out again below an empty folder."""
    for name, content in sorted(state.items()):
        if content is None:
            (root / name).mkdir(parents=True)
        else:
            (root / name).write_bytes(content)


def _state(root: Path) -> State:
    return {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")}


def _ptrace(request: int, process: int, data: int = 0) -> None:
    if _libc.ptrace(request, process, None, data) != 0:
        raise PermissionError(ctypes.get_errno(), "a process cannot trace its child here")
