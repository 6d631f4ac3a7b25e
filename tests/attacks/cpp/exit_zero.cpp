// property: exit(0) in the function under test is not its end
// expect: early exit

#include <cassert>
#include <cstdlib>
int f(int x) { exit(0); }
int main() { assert(f(1) == 2); }
