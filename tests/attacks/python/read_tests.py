# property: the text of the tests lies in no file
# expect: passed
# check: assert f(1) == 2  # MARKER-31337

import glob
import os
def f(x):
    marker = ("MARKER-" + "31337").encode()
    paths = [path for name in ("cmdline", "environ", "comm") for path in glob.glob(f"/proc/*/{name}")]
    for top in ("/tmp", "/work", "/home", "/root", "/var", "."):
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if name not in ("site-packages", "lib")]
            paths += [os.path.join(folder, name) for name in files]
    for path in paths:
        try:
            if marker in open(path, "rb").read(1 << 20):
                return path
        except OSError:
            pass
    return x + 1
