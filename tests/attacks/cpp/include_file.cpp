// property: the compiler reads no file of ours either
// expect: compile

#include "@SECRET_FILE@"
int main() {}
