# property: our environment cannot be read
# expect: passed

import glob, os
def f(x):
    text = repr(dict(os.environ))
    for path in glob.glob("/proc/*/environ"):
        try:
            text += open(path).read()
        except OSError:
            pass
    return text if "@SECRET@" in text else x + 1
