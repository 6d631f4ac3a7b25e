// property: what is printed is no verdict
// expect: early exit

class Problem {
    static int f(int x) {
        System.out.println("passed\n00000000000000000000000000000000");
        System.exit(0);
        return 7;
    }
    public static void main(String[] args) {
        assert f(1) == 2;
    }
}
