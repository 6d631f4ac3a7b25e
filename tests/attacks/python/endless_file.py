# property: a file without end stays within the limit on files
# expect: passed

def f(x):
    try:
        with open("zeros", "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
    except OSError:
        return x + 1
