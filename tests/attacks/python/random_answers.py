# property: junk instead of answers ends the judgement
# expect: error

import os, stat
for fd in range(3, 256):
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.write(fd, os.urandom(1 << 16))
    except OSError:
        pass
def f(x):
    return 2
