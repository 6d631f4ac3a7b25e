// property: an exit while the class is loaded is not its end
// expect: early exit

class Problem {
    static {
        Runtime.getRuntime().halt(0);
    }

    static int f(int x) {
        return 7;
    }
    public static void main(String[] args) {
        assert f(1) == 2;
    }
}
