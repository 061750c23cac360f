"""What the programs share: each is run as `PROGRAM fill|check DIRECTORY SCALE`, on any filesystem.

`fill` makes a store, uses it hard and leaves it closed; `check` finds all of it again, ending with
the store's own integrity check. What `check` prints must be the same on every filesystem. SCALE is
1 for CI and more for longer runs.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

WRITERS = 8


def main(fill, check):
    task, directory, scale = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
    {"fill": fill, "check": check}[task](directory, scale)


def run_writers(write, *arguments):
    """Runs `write(number, *arguments)` in 8 processes at once; each must succeed."""
    children = []
    for number in range(WRITERS):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                write(number, *arguments)
                code = 0
            except BaseException as error:  # noqa: BLE001
                print(f"writer {number}: {error!r}", file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0] * WRITERS, f"exit codes of the writers: {codes}"


def run_and_kill(write, *arguments, after=0.4):
    """Runs `write(*arguments)` in a process that is killed in the middle of it."""
    pid = os.fork()
    if pid == 0:
        try:
            write(*arguments)
        finally:
            os._exit(1)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, "it ended before"


def payload(number, size=200):
    """Bytes that follow from a number."""
    return random.Random(number).randbytes(size)


def run(command, **options):
    """Runs a command that must succeed; its standard output."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout
