// property: memory is bounded
// expect: memory

import java.util.*;

class Problem {
    static int f(int x) {
        List<byte[]> held = new ArrayList<>();
        while (true) held.add(new byte[1 << 24]);
    }
    public static void main(String[] args) {
        assert f(1) == 2;
    }
}
