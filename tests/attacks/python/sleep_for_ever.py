# property: sleeping does not escape the limit on time
# expect: timeout

import time
def f(x):
    while True:
        time.sleep(1)
