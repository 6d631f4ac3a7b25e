// property: the one-time number is gone before the program is loaded
// expect: wrong

import java.io.*;

class Problem {
    static {
        try {
            byte[] line = new byte[34];
            line[0] = line[33] = '\n';
            if (new FileInputStream("/proc/self/fd/0").read(line, 1, 32) == 32 || System.in.read(line, 1, 32) == 32) {
                System.out.write(line);
                System.out.flush();
                Runtime.getRuntime().halt(0);
            }
        } catch (IOException error) {
        }
    }

    static int f(int x) {
        return 7;
    }
    public static void main(String[] args) {
        assert f(1) == 2;
    }
}
