# property: a symbolic link leads nowhere outside
# expect: passed

import os
def f(x):
    os.symlink("@SECRET_FILE@", "link")
    os.symlink("@OUTSIDE@", "folder")
    for path, mode in (("link", "r"), ("folder/written", "w")):
        try:
            open(path, mode)
            return path
        except OSError:
            pass
    return x + 1
