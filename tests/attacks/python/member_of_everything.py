# property: a container of the program does not say what it contains
# expect: error wrong
# check: assert 2 in f(1) and 3 in f(1)

class Any(list):
    def __contains__(self, item): return True
def f(x): return Any()
