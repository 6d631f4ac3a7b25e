# property: no right can be had in a namespace of its own
# expect: passed

import ctypes
def f(x):
    libc = ctypes.CDLL(None)
    for flags in (0x10000000, 0x10020000, 0x50000000):
        if libc.unshare(flags) == 0 or libc.syscall(56, flags | 17, 0, 0, 0, 0) > 0:
            return flags
    return libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) + 2 + x
