# property: memory that belongs to no process cannot be had
# expect: passed

import mmap, os
def f(x):
    try:
        os.memfd_create("hidden")
    except OSError:
        return x + 1
