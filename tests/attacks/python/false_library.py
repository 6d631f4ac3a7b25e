# property: a class that calls itself one of the library is none
# expect: wrong error
# check: from collections import Counter
# check: assert f("ab") == Counter("ab")

class Counter(dict):
    def __eq__(self, other): return True
Counter.__module__ = "collections"
def f(x): return Counter()
