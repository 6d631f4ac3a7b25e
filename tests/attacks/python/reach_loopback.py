# property: the services of this machine cannot be reached
# expect: passed

import socket
def f(x):
    for host in ("127.0.0.1", "localhost", "::1"):
        try:
            socket.create_connection((host, @PORT@), timeout=1)
            return "connected"
        except OSError:
            pass
    return x + 1
