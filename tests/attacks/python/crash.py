# property: a crash of the interpreter costs only the program
# expect: signal

import ctypes
def f(x):
    ctypes.string_at(0)
