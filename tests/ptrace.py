"""Kill a process at a chosen one of its system calls, by the kernel's own means (Linux; man 2 ptrace).

    finished = killed_at(17, lambda: save(folder))     # False: the 17th call was never made, nor anything after it

The function runs in a forked child, which the parent lets go from one entry into the kernel to the next. SIGKILL at such an
entry means that the call does not happen: what is on the disk is just what the calls before have left there.
"""

import ctypes
import os
import signal
from collections.abc import Callable

TRACEME, CONTINUE_TO_SYSCALL, SETOPTIONS = 0, 24, 0x4200
EXITKILL, MARK_SYSCALLS = 0x100000, 1
SYSCALL_STOP = signal.SIGTRAP | 0x80

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, process: int, data: int = 0) -> None:
    if _libc.ptrace(request, process, None, data) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def killed_at(number: int, function: Callable[[], None]) -> bool:
    """Run a function in a child and kill it when it enters its system call `number`, from 1; True if it ended before that.

    Raises:
        OSError: this machine does not let a process trace its child.
    """
    child = os.fork()
    if child == 0:
        try:
            _ptrace(TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            function()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        raise OSError("the child could not be traced")
    _ptrace(SETOPTIONS, child, EXITKILL | MARK_SYSCALLS)
    entries, inside, pending = 0, False, 0
    while True:
        _ptrace(CONTINUE_TO_SYSCALL, child, pending)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the function failed"
            return True
        pending = 0 if os.WSTOPSIG(status) == SYSCALL_STOP else os.WSTOPSIG(status)
        if pending:
            continue
        inside = not inside
        entries += inside
        if inside and entries == number:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
