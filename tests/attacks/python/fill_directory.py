# property: many files together stay within the limit too
# expect: passed

def f(x):
    try:
        for number in range(1000):
            with open(str(number), "wb", buffering=0) as file:
                assert file.write(bytes(1 << 20)) == 1 << 20
    except OSError:
        return x + 1
