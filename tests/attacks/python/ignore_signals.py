# property: a loop that ignores signals ends at the limit on time
# expect: timeout

import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
