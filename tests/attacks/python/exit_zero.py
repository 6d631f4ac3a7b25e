# property: sys.exit(0) in the function under test is not its end
# expect: early exit

import sys
def f(x):
    sys.exit(0)
