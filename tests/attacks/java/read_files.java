// property: our files cannot be read, the system's users neither
// expect: passed

import java.io.File;

class Problem {
    static int f(int x) {
        return new File("/etc/passwd").exists() || new File("@SECRET_FILE@").exists() ? 7 : 2;
    }
    public static void main(String[] args) {
        assert f(1) == 2;
    }
}
