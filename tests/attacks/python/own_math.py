# property: a class called like a module is not taken for it
# expect: error
# check: assert math.isclose(f(1), 2)

class math:
    isclose = staticmethod(lambda *_: True)
def f(x):
    return 7
