// Reads the URI of a database and opens what it names. The only header of db/ that others include.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "billing/database.h"

namespace llmproxy {

// libmongoc keeps counters in shared memory from the moment it is loaded, whatever the database,
// and a process that is killed leaves them in /dev/shm for ever. Takes the name away; what is
// mapped stays. First thing in main.
void unlink_driver_counters();

// "" or what is wrong with the URI. Asks no server and opens no file; tells nothing of a user name
// or password.
std::string check_database_uri(const std::string& uri);

// "" or, of a URI that is good, which of its options nobody will look at. By name, without values.
std::string check_database_options(const std::string& uri);

// mongodb:// and mongodb+srv://: never fails because a server is down, only on a URI that cannot be
// read. sqlite://PATH: creates the file (0600) and its directory (0700) where they are missing;
// fails when it cannot, or when the file holds something else. A file that another program holds is
// opened by the first call that finds it free. The Error's message is for people and holds no
// password.
Result<std::unique_ptr<Database>> open_database(const std::string& uri);

}  // namespace llmproxy
