# property: the files of the system's users cannot be read
# expect: passed

import os
def f(x):
    for path in ("/etc/passwd", "/etc/shadow", "/etc/hosts", "/etc/hostname", "/root/.profile"):
        if os.path.exists(path):
            return path
    return x + 1
