// property: a class of the program's own with a main does not take the place of the tests
// expect: wrong

class Other {
    public static void main(String[] args) {
    }
}

class Problem {
    static int f(int x) {
        return 7;
    }
    public static void main(String[] args) {
        assert f(1) == 2;
    }
}
