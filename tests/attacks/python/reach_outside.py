# property: other machines cannot be reached
# expect: passed

import socket
def f(x):
    for address in (("1.1.1.1", 53), ("8.8.8.8", 443), ("example.org", 80)):
        try:
            socket.create_connection(address, timeout=1)
            return "connected"
        except OSError:
            pass
    return x + 1
