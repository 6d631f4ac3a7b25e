# property: a subclass of str does not answer for str's own methods
# expect: wrong
# check: assert f(1).startswith("2") and f(1).count("2") == 1

class Any(str):
    def startswith(self, *_): return True
    def count(self, *_): return 1
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def f(x): return Any("x")
