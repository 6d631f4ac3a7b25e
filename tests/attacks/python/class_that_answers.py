# property: the function under test is a class whose objects reckon as they like
# expect: error wrong
# check: assert abs(f(1) - 2) < 1e-6

class f:
    def __init__(self, x=0): pass
    def __sub__(self, other): return f()
    def __abs__(self): return 0.0
    def __lt__(self, other): return True
    def __float__(self): return 0.0
