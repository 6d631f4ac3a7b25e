import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;

/**
 * Runs the main method of a judged program, and tells its completion from an exit.
 *
 * A one-time number comes on standard input and is read before any class of the program is loaded; it is written as the
 * last line of standard output only after the program's main has returned. It lives in local variables only, where
 * reflection does not reach.
 */
public final class SubmodelHarness {
    private static final int DIGITS = 32;

    public static void main(String[] args) throws Throwable {
        byte[] line = new byte[DIGITS + 2];
        line[0] = line[DIGITS + 1] = '\n';
        if (System.in.readNBytes(line, 1, DIGITS) != DIGITS) {
            Runtime.getRuntime().halt(120);
        }
        FileOutputStream output = new FileOutputStream(FileDescriptor.out);
        try {
            Method main = Class.forName(args[0]).getDeclaredMethod("main", String[].class);
            main.setAccessible(true);
            main.invoke(null, (Object) new String[0]);
        } catch (InvocationTargetException error) {
            error.getCause().printStackTrace();
            System.err.flush();
            Runtime.getRuntime().halt(1);
        }
        System.out.flush();
        output.write(line);
        Runtime.getRuntime().halt(0);
    }
}
