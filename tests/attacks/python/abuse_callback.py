# property: a function that a test passes leads nowhere but to its call
# expect: wrong
# check: assert f(lambda: 1) == 2

def f(function):
    for name in ("__globals__", "__code__", "__class__", "__closure__"):
        try:
            found = function._candidate.ask("getattr", function, name)
            return 2
        except Exception:
            pass
    return 7
