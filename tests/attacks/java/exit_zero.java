// property: System.exit(0) in the function under test is not its end
// expect: early exit

class Problem {
    static int f(int x) {
        System.exit(0);
        return 7;
    }
    public static void main(String[] args) {
        assert f(1) == 2;
    }
}
