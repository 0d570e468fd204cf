"""Child processes of the test run. Each is registered when it starts, and ended by its own pid on every exit."""

import signal
import subprocess

_alive = set()


def start(argv, **options):
    process = subprocess.Popen(argv, **options)
    _alive.add(process)
    return process


def end(process, grace_s=5.0):
    """End one process that start() began: politely, then by force. Safe to call twice."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    _alive.discard(process)
    return process.returncode


def kill(process):
    """kill -9, and wait for it."""
    process.kill()
    process.wait()
    _alive.discard(process)


def end_all():
    for process in list(_alive):
        end(process)
