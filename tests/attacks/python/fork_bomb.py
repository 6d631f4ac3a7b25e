# property: a fork bomb stays within its number of processes and ends at the limit on time
# expect: timeout

import os, time
try:
    while True:
        os.fork()
except OSError:
    time.sleep(60)
