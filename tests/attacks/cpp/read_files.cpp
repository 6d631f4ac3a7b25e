// property: our files cannot be read, the system's users neither
// expect: passed

#include <cassert>
#include <fstream>
int f(int x) { return std::ifstream("/etc/passwd") || std::ifstream("@SECRET_FILE@") ? 7 : 2; }
int main() { assert(f(1) == 2); }
