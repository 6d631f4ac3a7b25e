# property: a namedtuple that equals everything is its items
# expect: wrong
# check: assert f(1) == (1, 2) and not f(1) != (1, 2)

from collections import namedtuple
class Any(namedtuple("Any", "a b")):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def f(x): return Any(7, 7)
