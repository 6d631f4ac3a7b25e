# property: an exit raised as an exception does not end the tests either
# expect: early exit

def f(x):
    raise SystemExit(0)
