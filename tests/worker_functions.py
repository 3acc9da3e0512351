"""Functions that tests run in a worker process."""

import os
import subprocess
import sys
import time

from edgecomp.executors._child import report_progress


def divide(by):
    return 1 / by


def noisy():
    print("python stdout")
    os.write(1, b"native stdout\n")
    os.write(2, b"native stderr\n")
    return "done"


def die(number):
    os.kill(os.getpid(), number)
    time.sleep(10)


def counting(to):
    for index in range(to):
        report_progress("counting", index, to)


def start_sleeper():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid


def take(count):
    return len(bytearray(count))
