# property: a builtin that the tests use is not the program's
# expect: wrong
# check: assert set(f(1)) == {2}

class Anything:
    __eq__ = lambda self, other: True
def set(value):
    return Anything()
def f(x):
    return [7]
