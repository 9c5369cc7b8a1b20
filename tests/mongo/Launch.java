// Starts the MongoDB-wire server of the tests on 127.0.0.1, all data in memory; argument: the port, 0 = any.
// Prints the port it listens on. Run as a single source file: see README.md.
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import java.util.List;

class Launch {
    // By itself the server reports wire version 8; mongosh 2 and current drivers refuse anything below 9.
    record Version(List<Integer> getVersionArray, int getWireVersion) implements MongoVersion {}

    public static void main(String[] arguments) {
        int port = arguments.length > 0 ? Integer.parseInt(arguments[0]) : 0;
        var backend = new MemoryBackend().version(new Version(List.of(6, 0, 0, 0), 17));
        var server = new MongoServer(backend);
        server.bind("127.0.0.1", port);
        System.out.println(server.getLocalAddress().getPort());
    }
}
