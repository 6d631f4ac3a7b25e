# property: many processes together get no more memory than one
# expect: memory

import os, time
for _ in range(20):
    if os.fork() == 0:
        hold = bytearray(os.urandom(1 << 20) * 40)
        time.sleep(60)
time.sleep(60)
