# property: a thousand threads are too many
# expect: error

import threading, time
def f(x):
    for _ in range(1000):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return x + 1
