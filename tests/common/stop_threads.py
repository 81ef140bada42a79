"""Stops threads of another process and nothing else of it, as a thread stands that waits for ever.

Usage: stop_threads.py TID...; they stand until this process ends. Prints a line when they do.
"""

import ctypes
import os
import sys

PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


def ptrace(request, tid):
    if libc.ptrace(request, ctypes.c_long(tid), None, None) != 0:
        sys.exit(f"ptrace {request:#x} of {tid}: {os.strerror(ctypes.get_errno())}")


for tid in map(int, sys.argv[1:]):
    ptrace(PTRACE_SEIZE, tid)
    ptrace(PTRACE_INTERRUPT, tid)
    os.waitpid(tid, WALL)
print("they stand", flush=True)
sys.stdin.read()
