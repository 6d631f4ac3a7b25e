// property: endless output is cut and ends the program
// expect: output

class Problem {
    static int f(int x) {
        while (true) System.out.println("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    }
    public static void main(String[] args) {
        assert f(1) == 2;
    }
}
