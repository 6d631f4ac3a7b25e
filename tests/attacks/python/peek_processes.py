# property: no other process can be traced, read or written
# expect: passed

import ctypes, os
def f(x):
    libc = ctypes.CDLL(None)
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        if pid == os.getpid():
            continue
        if libc.ptrace(16, pid, 0, 0) == 0:
            return f"traced {pid}"
        try:
            open(f"/proc/{pid}/mem", "r+b")
        except OSError:
            continue
        # at most the shell it was started by, which is held as it is itself
        status = open(f"/proc/{pid}/status").read()
        limits = open(f"/proc/{pid}/limits").read()
        if "Seccomp:\t2" not in status or limits != open("/proc/self/limits").read():
            return f"opened {pid}"
    return x + 1
