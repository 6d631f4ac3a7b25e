# property: an object of the tests does not lead to the tests' process
# expect: passed
# check: class N: v = 1; m = lambda self: 1
# check: assert f(N()) == 2

def f(n):
    for path in ("m.__globals__", "m.__func__", "m.__self__", "_n", "__reduce__.__self__.__reduce__.__globals__"):
        value = n
        try:
            for name in path.split("."):
                value = getattr(value, name)
            return path
        except AttributeError:
            pass
    return n.v + n.m()
