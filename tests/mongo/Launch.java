// Starts the MongoDB-wire server of the tests on 127.0.0.1, all data in memory; argument: the port, 0 = any.
// Prints the port it listens on. A line "stop" on stdin takes the server away, its data kept; "start" brings it back
// on the same port; each is answered with the port. Run as a single source file: see README.md.
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import java.util.List;
import java.util.Scanner;

class Launch {
    // By itself the server reports wire version 8; mongosh 2 and current drivers refuse anything below 9.
    record Version(List<Integer> getVersionArray, int getWireVersion) implements MongoVersion {}

    public static void main(String[] arguments) {
        int port = arguments.length > 0 ? Integer.parseInt(arguments[0]) : 0;
        var backend = new Kept();
        backend.version(new Version(List.of(6, 0, 0, 0), 17));
        var server = new MongoServer(backend);
        server.bind("127.0.0.1", port);
        port = server.getLocalAddress().getPort();
        System.out.println(port);
        for (var words = new Scanner(System.in); words.hasNextLine(); System.out.println(port)) {
            if (words.nextLine().equals("stop")) {
                server.shutdownNow();
            } else {
                server = new MongoServer(backend);
                server.bind("127.0.0.1", port);
            }
        }
    }

    // Its data outlive a server.
    static class Kept extends MemoryBackend {
        @Override
        public void close() {}
    }
}
