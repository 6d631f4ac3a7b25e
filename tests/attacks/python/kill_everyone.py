# property: no process of ours gets a signal
# expect: passed

import os, signal
def f(x):
    for pid in [os.getppid(), 1, -1, *range(2, 5000)]:
        if pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
    return x + 1
