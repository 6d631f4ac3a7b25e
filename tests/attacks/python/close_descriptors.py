# property: closing every descriptor ends only the program
# expect: error

import os
os.closerange(0, 256)
def f(x):
    return 2
