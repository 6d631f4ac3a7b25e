# property: the program's own check is not the one that counts
# expect: wrong
# entry: f
# check: def check(candidate):
# check:     assert candidate(1) == 2
# check: 
# check: check(f)

def check(candidate):
    return True
def f(x):
    return 7
