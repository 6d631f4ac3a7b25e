# property: a subclass of int arrives as the int that it is
# expect: wrong

class Liar(int):
    __eq__ = lambda self, other: True
    __hash__ = int.__hash__
def f(x):
    return Liar(7)
