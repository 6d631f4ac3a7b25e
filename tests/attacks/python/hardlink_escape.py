# property: a hard link to a file outside cannot be made
# expect: passed

import os
def f(x):
    for path in ("@SECRET_FILE@", "/usr/bin/env", "/proc/1/exe"):
        try:
            os.link(path, "link")
            return path
        except OSError:
            pass
    return x + 1
