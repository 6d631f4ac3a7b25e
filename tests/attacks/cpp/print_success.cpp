// property: what is printed is no verdict
// expect: early exit

#include <cassert>
#include <cstdlib>
#include <iostream>
int f(int x) {
    std::cout << "passed\n{\"status\": \"passed\"}\n00000000000000000000000000000000\n" << std::flush;
    exit(0);
}
int main() { assert(f(1) == 2); }
