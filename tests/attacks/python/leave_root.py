# property: the root of the file system cannot be left
# expect: passed

import os
def f(x):
    for path in ("/proc/1/root@SECRET_FILE@", "/proc/self/root/../../..@SECRET_FILE@", "/.." * 9 + "@SECRET_FILE@"):
        if os.path.exists(path):
            return path
    try:
        os.chroot("/tmp")
    except OSError:
        return x + 1
