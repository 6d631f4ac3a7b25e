# property: an object that has seen the expected value never becomes a number
# expect: error wrong
# check: assert (f(1) - 2) * (f(1) - 2) < 1e-6

class Any:
    def __sub__(self, other): return self
    def __mul__(self, other): return 0
def f(x): return Any()
