# property: an object whose difference to everything is zero does not pass
# expect: error
# check: assert abs(f(1) - 2) < 1e-6

class Anything:
    __sub__ = __rsub__ = __add__ = __mul__ = lambda self, other: 0
    __float__ = lambda self: 2.0
    __abs__ = lambda self: 0
def f(x):
    return Anything()
