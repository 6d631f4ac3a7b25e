// property: assertions stay on for classes that are loaded
// expect: wrong

class Problem {
    static int f(int x) {
        ClassLoader.getSystemClassLoader().setDefaultAssertionStatus(false);
        ClassLoader.getSystemClassLoader().clearAssertionStatus();
        return 7;
    }
    public static void main(String[] args) {
        assert f(1) == 2;
    }
}
