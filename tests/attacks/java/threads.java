// property: threads are bounded
// expect: memory error

class Problem {
    static int f(int x) {
        for (int i = 0; i < 10000; i++) {
            Thread thread = new Thread(() -> { try { Thread.sleep(60000); } catch (InterruptedException error) { } });
            thread.setDaemon(true);
            thread.start();
        }
        return 2;
    }
    public static void main(String[] args) {
        assert f(1) == 2;
    }
}
