# property: an object has no order among plain data
# expect: error wrong
# check: assert f(1) >= 2 and f(1) <= 2

import functools
class Any:
    def __le__(self, other): return True
    def __ge__(self, other): return True
def f(x): return Any()
