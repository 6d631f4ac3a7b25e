# property: an exception of the program does not end a loop of the tests
# expect: error
# check: for got, expected in zip(map(f, [1, 2]), [2, 3]): assert got == expected

class Stop(StopIteration): pass
def f(x): raise Stop
