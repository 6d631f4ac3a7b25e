# property: an object that equals everything does not pass
# expect: wrong

class Anything:
    __eq__ = __ge__ = __le__ = __contains__ = lambda self, other: True
    __hash__ = object.__hash__
    __ne__ = lambda self, other: False
def f(x):
    return Anything()
