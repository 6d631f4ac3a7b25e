// property: a hook at exit cannot undo a failed assertion
// expect: wrong

class Problem {
    static int f(int x) {
        Thread.setDefaultUncaughtExceptionHandler((thread, error) -> System.exit(0));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> Runtime.getRuntime().halt(0)));
        return 7;
    }
    public static void main(String[] args) {
        assert f(1) == 2;
    }
}
