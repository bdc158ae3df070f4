"""Runs one command that cannot outlive the process that started it. Started by path, standard library only.

``guard.py KIND PARENT FD -- COMMAND...``. With KIND ``deathsig`` the kernel kills this process when its
parent dies (``prctl(PR_SET_PDEATHSIG)``, Linux), the setting stays across ``exec``, and the command takes
this process over. It is done here and not in a ``preexec_fn`` because Python code between fork and exec
can deadlock. With KIND ``pipe`` the command is a child, killed when the parent's end of pipe FD closes.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def run_until_parent_dies(parent: int, command: list[str]) -> None:
    """Become ``command``, to be killed with the parent."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    # The parent may have died before the call: then no signal will ever come.
    if os.getppid() != parent:
        os._exit(1)
    os.execvp(command[0], command)


def run_until_pipe_closes(pipe: int, command: list[str]) -> None:
    """Run ``command`` as a child, pass signals on, and kill it when the pipe's other end closes."""
    import subprocess
    import threading

    child = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: child.send_signal(received))

    def watch() -> None:
        os.read(pipe, 1)
        child.kill()

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    os._exit(code if code >= 0 else 128 - code)


def main() -> None:
    """Read the command line and run it."""
    kind, parent, pipe, marker, *command = sys.argv[1:]
    if marker != "--" or not command:
        raise SystemExit("usage: guard.py deathsig|pipe PARENT FD -- COMMAND...")
    if kind == "deathsig":
        run_until_parent_dies(int(parent), command)
    else:
        run_until_pipe_closes(int(pipe), command)


if __name__ == "__main__":
    main()
