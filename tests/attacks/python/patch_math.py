# property: a patched module of the standard library does not reach the tests
# expect: wrong
# check: import math
# check: assert math.isclose(f(1), 2)

import math
math.isclose = lambda *_, **__: True
math.fabs = lambda *_: 0.0
def f(x):
    return 7
