// property: a program that the compiler cannot finish is no program
// expect: compile

template <int N> struct Deep { static const long value = Deep<N - 1>::value + 1; };
int main() { return Deep<1000000>::value; }
