# property: patched builtins do not reach the tests
# expect: wrong error

import builtins, sys
builtins.AssertionError = type("Silent", (Exception,), {})
builtins.isinstance = lambda *_: True
builtins.__build_class__ = builtins.exec = builtins.compile = lambda *_, **__: None
sys.settrace(lambda *_: None)
def f(x):
    return 7
