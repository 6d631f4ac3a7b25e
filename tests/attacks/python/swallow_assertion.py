# property: a test's assertion fails in the tests' process, where no handler of the program is
# expect: wrong
# check: f(g)
# check: assert f(None) == 2

import sys, atexit
sys.excepthook = lambda *_: None
atexit.register(print, "passed")
def g():
    return 1
def f(x):
    try:
        return x() if x else 7
    except BaseException:
        return 2
