// property: a handler at exit cannot undo a failed assertion
// expect: wrong

#include <cassert>
#include <csignal>
#include <cstdlib>
#include <unistd.h>
int f(int x) { signal(SIGABRT, [](int) { _exit(0); }); return 7; }
int main() { assert(f(1) == 2); }
