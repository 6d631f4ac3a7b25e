# property: a list of the program that equals everything is its items
# expect: wrong
# check: assert f(1) == [2] and f(1).index(2) == 0

class Any(list):
    def __eq__(self, other): return True
    def index(self, *_): return 0
def f(x): return Any([3])
