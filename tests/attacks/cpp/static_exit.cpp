// property: an exit before main is not its end
// expect: early exit

#include <cassert>
#include <cstdlib>
struct Early { Early() { exit(0); } } early;
int f(int x) { return 7; }
int main() { assert(f(1) == 2); }
