"""Runs one command that cannot outlive the process that started it. Started by path, standard library only.

``guard.py KIND PARENT FD NICE -- COMMAND...``. With KIND ``deathsig`` the kernel kills this process when its
parent dies (``prctl(PR_SET_PDEATHSIG)``, Linux), the setting stays across ``exec``, and the command takes
this process over. It is done here and not in a ``preexec_fn`` because Python code between fork and exec
can deadlock. With KIND ``pipe`` the command is a child, killed when the parent's end of pipe FD closes.
NICE is how far the command makes room for others.
"""

import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
AUTOGROUP = "/proc/self/autogroup"
_TRIES = 20


def make_room(nice: int) -> None:
    """Lower the priority of this process and what it becomes, by 0 to 19.

    Linux groups processes by session and shares the cores between groups (``sched(7)``, "The autogroup feature"):
    among processes with sessions of their own the niceness of the group alone counts, not that of the process.
    """
    if nice <= 0:
        return
    os.nice(nice)
    for _ in range(_TRIES):
        try:
            with open(AUTOGROUP, "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib takes long to load
                file.write(str(nice))
            return
        except BlockingIOError:
            # The kernel takes one change in 100 ms from all that are not root.
            time.sleep(0.1)
        except OSError:
            # Another system, or one without autogroups: the process's own niceness counts there.
            return


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
    kind, parent, pipe, nice, marker, *command = sys.argv[1:]
    if marker != "--" or not command:
        raise SystemExit("usage: guard.py deathsig|pipe PARENT FD NICE -- COMMAND...")
    make_room(int(nice))
    if kind == "deathsig":
        run_until_parent_dies(int(parent), command)
    else:
        run_until_pipe_closes(int(pipe), command)


if __name__ == "__main__":
    main()
