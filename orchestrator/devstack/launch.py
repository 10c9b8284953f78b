"""Become another program: own session, log file, account, and a signal for when the parent dies.

Run as ``python -I -S launch.py PARENT DEATH_SIGNAL UID GID OVERRIDE LOG CWD PROGRAM ARG...``. It exists because all
of this has to happen between fork and exec, where a parent with threads must not run Python. It imports the standard
library only, takes about 10 ms, and is gone after ``exec``: the process id is the program's. Numbers of 0 and a UID
of -1 mean "leave as is".
"""

from __future__ import annotations

import ctypes
import os
import sys

# Values of <linux/prctl.h>, <linux/securebits.h> and <linux/capability.h>.
_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

#: Exit status when the program could not be started; the reason is in the log.
CANNOT_START = 126


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _call(function: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _become(uid: int, gid: int, *, override: bool) -> None:
    """Give root away; with ``override`` keep the one capability that opens files and folders whatever their mode."""
    if override:
        # Not only keeps capabilities over the change of account: without it access(2), with which PostgreSQL looks at its
        # own programs, answers as if there were none.
        _call("prctl", _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if override:
        bit = 1 << _CAP_DAC_OVERRIDE
        header = _Header(_LINUX_CAPABILITY_VERSION_3, 0)
        sets = (_Data * 2)(_Data(bit, bit, bit), _Data(0, 0, 0))
        _call("capset", ctypes.byref(header), ctypes.byref(sets))
        _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


def main(arguments: list[str]) -> None:
    parent, death_signal, uid, gid, override = (int(value) for value in arguments[:5])
    log, cwd, *program = arguments[5:]
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.setsid()
        os.chdir(cwd)
        if uid >= 0:
            _become(uid, gid, override=bool(override))
        if death_signal and sys.platform == "linux":
            # After the change of account, which clears it.
            _call("prctl", _PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
            if os.getppid() != parent:
                sys.exit(CANNOT_START)
        os.execv(program[0], program)  # noqa: S606 - replacing this process is the purpose
    except OSError as error:
        sys.stderr.write(f"cannot start {program[0]}: {error}\n")
        sys.exit(CANNOT_START)


if __name__ == "__main__":
    main(sys.argv[1:])
