# property: an allocation of 100 GB fails inside
# expect: memory

def f(x):
    return len(bytearray(100 << 30))
