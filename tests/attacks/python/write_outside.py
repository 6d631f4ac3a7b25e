# property: nothing can be written but in the private directory
# expect: passed

import os
def f(x):
    for folder in ("@OUTSIDE@", "/", "/usr", "/usr/bin", "/etc", "/dev", "/dev/shm", "/var/tmp", "/home", "/root"):
        if os.path.realpath(folder) == "/tmp":  # the private directory by another name
            continue
        try:
            open(os.path.join(folder, "written"), "w").write("x")
            return folder
        except OSError:
            pass
    return x + 1
