# property: recursion without end is an error like any
# expect: error

def f(x):
    return f(x) + 1
