# property: an object of the tests does not lead to the tests' process
# expect: passed
# check: class N: v = 1
# check: assert f(N()) == 2

def f(n):
    for path in ("__class__", "_secret", "__init__"):
        try:
            getattr(n, path).__globals__
            return 0
        except AttributeError:
            pass
    return n.v + 1
