# property: an operator of the answer does not make the difference that is asserted
# expect: error wrong
# check: assert abs(f(1) - 2) < 1e-6

class Any:
    def __sub__(self, other): return 0
    def __rsub__(self, other): return 0
    def __abs__(self): return 0
def f(x): return Any()
