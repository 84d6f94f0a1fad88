/** Starts the server: the program that does is in the part of Trino that no registry has. */
public class TrinoServer {
    public static void main(String[] arguments) {
        new io.trino.server.Server().start(arguments[0]);
    }
}
