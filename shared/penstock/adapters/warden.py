"""
The small process that a supervised server runs under. It ends the server, and all that belongs to it, when its own
standard input closes: then the gateway has ended, however that came about, and nothing may stay behind.

Started by its path with the standard library alone (`python -I -S warden.py STOP_S COMMAND ...`), so that it is there
within a moment. It reports on standard output, a line of JSON each: `{"pid": 7}` or `{"failed": "..."}`, then
`{"ended": CODE}` (a signal's number is negative) when the command itself has ended. What the server writes goes to
the standard error of this process, which is the gateway's pipe.

POSIX: the command leads a session and a process group of its own; the group gets SIGTERM, and SIGKILL after STOP_S.
On Linux orphans that left the group are adopted (PR_SET_CHILD_SUBREAPER) and ended as well, and the command dies with
this process if somebody kills that (PR_SET_PDEATHSIG, prctl(2)). Windows: everything runs in a job object that is
killed when its last handle closes (`JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE`); before that comes CTRL_BREAK.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_POLL_S = 0.02
_ORPHANS_S = 2.0
"""What outlives its leader is told to end, and has this long."""


def report(**told: object) -> None:
    """One line for the gateway, if it is still there."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(told).encode() + b"\n")


def main(arguments: list[str]) -> int:
    """Run the command until it ends or has to."""
    stop_s, command = float(arguments[0]), arguments[1:]
    job = _own_job() if sys.platform == "win32" else None
    try:
        child = _start(command)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        report(failed=f"{command[0]} cannot be started: {reason}")
        return 127
    report(pid=child.pid)
    ending = Ending(child, stop_s)
    for number in (signal.SIGTERM, getattr(signal, "SIGBREAK", signal.SIGTERM)):
        signal.signal(number, lambda *_: ending.begin())
    threading.Thread(target=_end_with_input, args=(ending,), daemon=True).start()
    code = child.wait()
    report(ended=code)
    if sys.platform != "win32":
        _end_group(child.pid, stop_s if ending.begun else _ORPHANS_S)
    del job  # Windows: now the rest ends
    return 0


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    if sys.platform == "win32":
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,
            stderr=2,
            creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
        )
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=2,
        stderr=2,
        start_new_session=True,
        preexec_fn=_before_exec(),  # noqa: PLW1509 (no other thread runs yet)
    )


class Ending:
    """The end of the command, at most begun once."""

    def __init__(self, child: subprocess.Popen[bytes], stop_s: float) -> None:
        self._child = child
        self._stop_s = stop_s
        self.begun = False

    def begin(self) -> None:
        """Tell the command to end, and have it killed when it does not."""
        if self.begun:
            return
        self.begun = True
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self._child.send_signal(signal.CTRL_BREAK_EVENT)
            else:
                os.killpg(self._child.pid, signal.SIGTERM)
        timer = threading.Timer(self._stop_s, self._kill)
        timer.daemon = True
        timer.start()

    def _kill(self) -> None:
        if self._child.returncode is None:
            with contextlib.suppress(OSError):
                if sys.platform == "win32":
                    self._child.kill()
                else:
                    os.killpg(self._child.pid, signal.SIGKILL)


def _end_with_input(ending: Ending) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    ending.begin()


def _before_exec() -> Callable[[], None]:
    """Linux: adopt orphans. Returns what the command does before it begins: die with this process, heed Ctrl-C."""
    die_with_us: Callable[[], object] = int
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            prctl = ctypes.CDLL(None).prctl
            prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            die_with_us = partial(prctl, _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def before() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is ignored would be ignored after exec
        die_with_us()

    return before


def _end_group(group: int, within_s: float) -> None:
    """End what the command left behind: its group, and on Linux the orphans that came to us."""
    if sys.platform == "win32":
        return
    kill_at_s, sent = time.monotonic() + within_s, signal.SIGTERM
    told: set[int] = set()
    while True:
        _reap()
        orphans = _children()
        try:
            os.killpg(group, 0)
        except OSError:
            if not orphans:
                return
        if sent is signal.SIGTERM and time.monotonic() >= kill_at_s:
            sent = signal.SIGKILL
            told.clear()
        if group not in told:
            _send(os.killpg, group, sent)
        for orphan in orphans:
            if orphan not in told:
                _send(os.kill, orphan, sent)
        told |= {group, *orphans}
        if time.monotonic() >= kill_at_s + _ORPHANS_S:
            return  # stuck in the kernel: nobody can end it
        time.sleep(_POLL_S)


def _send(how: Callable[[int, int], None], whom: int, number: int) -> None:
    with contextlib.suppress(OSError):
        how(whom, number)


def _reap() -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _children() -> list[int]:
    """Our children by the kernel's word; none where it does not say."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as told:
            return [int(pid) for pid in told.read().split()]
    except (OSError, ValueError):
        return []


def _own_job() -> object:
    """A job object with this process in it: what we start is in it too, and ends when its handle closes."""
    import ctypes
    from ctypes import wintypes

    class Basic(ctypes.Structure):
        _fields_ = (
            ("PerProcessUserTimeLimit", ctypes.c_int64),
            ("PerJobUserTimeLimit", ctypes.c_int64),
            ("LimitFlags", wintypes.DWORD),
            ("MinimumWorkingSetSize", ctypes.c_size_t),
            ("MaximumWorkingSetSize", ctypes.c_size_t),
            ("ActiveProcessLimit", wintypes.DWORD),
            ("Affinity", ctypes.c_size_t),
            ("PriorityClass", wintypes.DWORD),
            ("SchedulingClass", wintypes.DWORD),
        )

    class Extended(ctypes.Structure):
        _fields_ = (
            ("BasicLimitInformation", Basic),
            ("IoInfo", ctypes.c_uint64 * 6),
            ("ProcessMemoryLimit", ctypes.c_size_t),
            ("JobMemoryLimit", ctypes.c_size_t),
            ("PeakProcessMemoryUsed", ctypes.c_size_t),
            ("PeakJobMemoryUsed", ctypes.c_size_t),
        )

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    kernel.CreateJobObjectW.restype = wintypes.HANDLE
    kernel.GetCurrentProcess.restype = wintypes.HANDLE
    job = wintypes.HANDLE(kernel.CreateJobObjectW(None, None))
    limits = Extended()
    limits.BasicLimitInformation.LimitFlags = 0x2000  # JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
    kernel.SetInformationJobObject(job, 9, ctypes.byref(limits), ctypes.sizeof(limits))
    kernel.AssignProcessToJobObject(job, wintypes.HANDLE(kernel.GetCurrentProcess()))
    return job


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
