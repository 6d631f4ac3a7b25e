# property: a daemon does not outlive the program
# expect: passed

import os, time
def f(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 256)
            os.execv("/usr/bin/sleep", ["sleep", "@DAEMON@"])
        os._exit(0)
    os.wait()
    time.sleep(0.1)
    return x + 1
