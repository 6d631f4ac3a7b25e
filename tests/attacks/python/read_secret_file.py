# property: a file of ours cannot be read
# expect: passed

def f(x):
    try:
        return open("@SECRET_FILE@").read()
    except OSError:
        return x + 1
