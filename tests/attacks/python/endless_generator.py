# property: a generator without end ends at the limit on time
# expect: timeout memory
# check: assert list(f(1)) == [2]

def f(x):
    while True:
        yield 2
