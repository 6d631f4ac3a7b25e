# property: an object that has seen the expected value never becomes a number
# expect: error wrong
# check: import math
# check: assert math.fabs(f(1) - 2) < 1e-6

class Any:
    def __sub__(self, other): return self
    def __float__(self): return 0.0
    def __index__(self): return 0
def f(x): return Any()
