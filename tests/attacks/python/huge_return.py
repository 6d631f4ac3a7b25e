# property: a huge answer is not taken in
# expect: error memory

def f(x):
    return ["x" * (1 << 20)] * 100
